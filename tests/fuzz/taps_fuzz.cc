// libFuzzer target: whatever the bytes, a collection of taps is read to numbers that are finite, or
// ends in a FileError of one line. README.md says how to run it.
//
// The first two bytes say how many of the following are collection.json; what is left is the file
// of the first prompt.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/pregate/collection.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Of this process, in memory where that is to be had.
const fs::path& folder() {
  static const fs::path kFolder = [] {
    std::error_code error;
    const fs::path parent = fs::is_directory("/dev/shm", error) ? "/dev/shm" : ".";
    return parent / ("taps_fuzz_" + std::to_string(getpid()));
  }();
  return kFolder;
}

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void read_all(const TapFile& file, const TapShape& shape) {
  std::vector<float> inputs(static_cast<size_t>(shape.d_model));
  std::vector<float> logits(static_cast<size_t>(shape.n_experts));
  const auto finite = [](float x) { return std::isfinite(x); };
  for (int32_t layer = 0; layer < shape.n_layers; ++layer) {
    for (int64_t t = 0; t < file.n_tokens(); ++t) {
      file.read_inputs(layer, t, 1, inputs.data());
      file.read_logits(layer, t, 1, logits.data());
      TANDEM_CHECK(std::all_of(inputs.begin(), inputs.end(), finite), "token %d", int(t));
      if (shape.before_attention) {
        file.read_before_attention(layer, t, 1, inputs.data());
        TANDEM_CHECK(std::all_of(inputs.begin(), inputs.end(), finite), "token %d", int(t));
      }
      TANDEM_CHECK(std::all_of(logits.begin(), logits.end(), finite), "token %d", int(t));
    }
  }
}

void probe(std::string_view info, std::string_view taps) {
  fs::create_directories(folder());
  write(folder() / "collection.json", info);
  write(folder() / "prompt-000000.taps", taps);
  try {
    const Collection collection = Collection::open(folder());
    TANDEM_CHECK(collection.has(0), "the first prompt is not there");
    const TapShape& shape = collection.info().shape;
    read_all(TapFile(collection.file(0), shape), shape);
  } catch (const FileError& error) {
    const std::string_view message = error.what();
    TANDEM_CHECK(message.find('\n') == std::string_view::npos, "%s", error.what());
    TANDEM_CHECK(message.substr(0, folder().string().size()) == folder().string(), "%s",
                 error.what());
  }
  fs::remove_all(folder());  // each time: libFuzzer ends without destructors
}

}  // namespace
}  // namespace tandem

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view all(reinterpret_cast<const char*>(data + 2), size - 2);
  const size_t n = std::min<size_t>(data[0] + size_t{256} * data[1], all.size());
  tandem::probe(all.substr(0, n), all.substr(n));
  return 0;
}
