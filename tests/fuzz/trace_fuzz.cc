// libFuzzer target: whatever the bytes, the readers of routing traces end in a FileError or in a
// trace without a fault, which comes back from our own format. README.md says how to run it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_file.h"
#include "runtime/trace/trace_formats.h"

namespace tandem {
namespace {

constexpr size_t kChecksumBytes = 4;

void check(const Trace& trace) {
  const auto fault = find_trace_fault(trace);
  TANDEM_CHECK(!fault, "%s", fault->what.c_str());
  std::string image;
  encode_binary_trace(trace, [&](std::string_view bytes) { image += bytes; });
  const Trace again = parse_trace(std::as_bytes(std::span(image)), "again");
  TANDEM_CHECK(again.ids == trace.ids && again.predicted == trace.predicted &&
                   again.steps.size() == trace.steps.size() &&
                   again.header.model == trace.header.model &&
                   again.header.lookahead == trace.header.lookahead &&
                   again.header.expert_bytes == trace.header.expert_bytes,
               "another trace came back");
  std::string third;
  encode_binary_trace(again, [&](std::string_view bytes) { third += bytes; });
  TANDEM_CHECK(third == image, "weights in half precision were rounded again");
}

void probe(std::span<const std::byte> image) {
  try {
    check(parse_trace(image, "fuzz"));
  } catch (const FileError& error) {
    const std::string_view message = error.what();
    TANDEM_CHECK(message.find('\n') == std::string_view::npos, "%s", error.what());
    TANDEM_CHECK(message.substr(0, 4) == "fuzz", "%s", error.what());
  }
}

}  // namespace
}  // namespace tandem

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly this size, so that the sanitizer sees a read past either end.
  const auto copy = std::make_unique<std::byte[]>(size);
  if (size > 0) std::memcpy(copy.get(), data, size);
  tandem::probe({copy.get(), size});
  // Chance does not find a checksum.
  const std::string_view text(reinterpret_cast<const char*>(copy.get()), size);
  if (size < tandem::kChecksumBytes || !text.starts_with(tandem::kTraceMagic)) return 0;
  const uint32_t checksum = tandem::crc32(text.substr(0, size - tandem::kChecksumBytes));
  std::memcpy(copy.get() + size - tandem::kChecksumBytes, &checksum, sizeof checksum);
  tandem::probe({copy.get(), size});
  return 0;
}
