// Writes the seed corpus of trace_fuzz in our own format: small valid traces, into the folder
// named by the argument. Seeds of the text formats lie in tests/fixtures/trace.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_file.h"
#include "runtime/trace/trace_formats.h"
#include "scheduler/synthetic_trace.h"
#include "tests/fuzz/seeds.h"

namespace tandem {
namespace {

SyntheticTraceSettings settings(int32_t n_experts, int32_t n_ahead) {
  SyntheticTraceSettings s;
  s.n_layers = 2;
  s.n_experts = n_experts;
  s.top_k = 2;
  s.n_sequences = 2;
  s.n_prompt = 3;
  s.n_decode = 2;
  s.n_ahead = n_ahead;
  return s;
}

// The trace as version 1 had it: without the header's `lookahead`.
std::string version_1(const Trace& trace) {
  std::string image;
  encode_binary_trace(trace, [&](std::string_view bytes) { image += bytes; });
  const std::string key = "\"lookahead\":\"" + trace.header.lookahead + "\",";
  const size_t at = image.find(key);
  if (at == std::string::npos) throw std::runtime_error("the header has no " + key);
  image.erase(at, key.size());
  uint32_t head[2];  // version and bytes of the header
  std::memcpy(head, &image[kTraceMagic.size()], sizeof head);
  head[0] = 1;
  head[1] -= static_cast<uint32_t>(key.size());
  std::memcpy(&image[kTraceMagic.size()], head, sizeof head);
  const size_t end = image.size() - sizeof(uint32_t);
  const uint32_t checksum = crc32(std::string_view(image).substr(0, end));
  std::memcpy(&image[end], &checksum, sizeof checksum);
  return image;
}

void write_all(const std::filesystem::path& dir) {
  write_trace(make_synthetic_trace(settings(6, 0)), dir / "one_byte.trace");
  write_trace(make_synthetic_trace(settings(300, 0)), dir / "two_bytes.trace");
  Trace trace = make_synthetic_trace(settings(6, 2));
  trace.header.expert_bytes = {1000, 2000};
  trace.header.model_hash = "0123";
  trace.header.lookahead = LookaheadName::kLinear;
  write_trace(trace, dir / "predictions.trace");
  fuzz::write_seed(dir / "version_1.trace", version_1(trace));
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::fuzz::write_seeds(argc, argv, tandem::write_all); }
