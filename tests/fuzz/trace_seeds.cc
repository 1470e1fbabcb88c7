// Writes the seed corpus of trace_fuzz in our own format: small valid traces, into the folder
// named by the argument. Seeds of the text formats lie in tests/fixtures/trace.
#include <filesystem>
#include <string>

#include "runtime/trace/trace_file.h"
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

void write_all(const std::filesystem::path& dir) {
  write_trace(make_synthetic_trace(settings(6, 0)), dir / "one_byte.trace");
  write_trace(make_synthetic_trace(settings(300, 0)), dir / "two_bytes.trace");
  Trace trace = make_synthetic_trace(settings(6, 2));
  trace.header.expert_bytes = {1000, 2000};
  trace.header.model_hash = "0123";
  write_trace(trace, dir / "predictions.trace");
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::fuzz::write_seeds(argc, argv, tandem::write_all); }
