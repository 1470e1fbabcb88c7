#include "tests/trace/trace_testing.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_file.h"
#include "runtime/trace/trace_formats.h"

namespace tandem::test {
namespace {

bool same_header(const TraceHeader& a, const TraceHeader& b) {
  return a.model == b.model && a.model_hash == b.model_hash && a.n_layers == b.n_layers &&
         a.n_experts == b.n_experts && a.top_k == b.top_k && a.n_ranks == b.n_ranks &&
         a.n_ahead == b.n_ahead && a.expert_bytes == b.expert_bytes && a.lookahead == b.lookahead;
}

bool same_step(const TraceStep& a, const TraceStep& b) {
  return a.sequence == b.sequence && a.prefill == b.prefill && a.first_token == b.first_token &&
         a.n_tokens == b.n_tokens;
}

}  // namespace

std::string fixture(const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR "/tests/fixtures/trace/") + name;
}

std::string encode(const Trace& trace) {
  std::string image;
  encode_binary_trace(trace, [&](std::string_view bytes) { image += bytes; });
  return image;
}

Trace parse(std::string_view image, const std::string& where) {
  return parse_trace(std::as_bytes(std::span(image)), where);
}

std::string with_checksum(std::string image) {
  const size_t at = image.size() - 4;
  return image.replace(at, 4, raw(crc32(std::string_view(image).substr(0, at))));
}

std::string difference(const Trace& a, const Trace& b, double tolerance) {
  constexpr double kHalfStep = 0x1p-25;
  if (!same_header(a.header, b.header)) return "headers";
  if (!std::equal(a.steps.begin(), a.steps.end(), b.steps.begin(), b.steps.end(), same_step)) {
    return "steps";
  }
  if (a.ids != b.ids) return "ids";
  if (a.predicted != b.predicted) return "predictions";
  if (a.weights.size() != b.weights.size()) return "the number of weights";
  for (size_t i = 0; i < a.weights.size(); ++i) {
    const double x = a.weights[i];
    if (std::abs(x - static_cast<double>(b.weights[i])) > tolerance * x + kHalfStep) {
      return "weight " + std::to_string(i);
    }
  }
  return "";
}

Trace small_trace() {
  Trace trace;
  trace.header = {"a model", "0123abcd", 3, 5, 2, 3, 1, {100, 200, 300}, "gate-reuse"};
  trace.steps = {{0, true, 0, 2}, {0, false, 2, 1}, {3, false, 3, 1}};
  trace.ids = {
      0, 1,  2,  4, 3,  2, -1, -1, -1,  // the last layer of a prompt's first token
      1, 4,  0,  2, 0,  3, 3,  4,  0,   //
      4, 0,  1,  1, -1, 2, 0,  1,  2,   // one expert selected, the next one known
      2, -1, -1, 3, 1,  4, 4,  2,  -1,
  };
  trace.weights = {
      0.5F,   0.25F, 0.125F,  0.75F, 0.0625F, 0.03125F, 0.0F,   0.0F,    0.0F,
      0.375F, 0.25F, 0.1875F, 1.0F,  0.0F,    0.0F,     0.5F,   0.5F,    0.0F,
      0.9F,   0.1F,  0.001F,  0.6F,  0.0F,    0.3F,     0.4F,   0.3333F, 0.2F,
      1.0F,   0.0F,  0.0F,    0.5F,  0.25F,   0.125F,   2.125F, 0.0001F, 0.0F,
  };
  trace.predicted = {
      4, 3,  3, 4, -1, -1,  //
      2, 1,  3, 0, -1, -1,  //
      1, 0,  0, 1, -1, -1,  //
      3, -1, 4, 2, -1, -1,
  };
  return trace;
}

SyntheticTraceSettings small_settings() {
  SyntheticTraceSettings s;
  s.n_layers = 4;
  s.n_experts = 32;
  s.top_k = 4;
  s.n_sequences = 2;
  s.n_prompt = 50;
  s.n_decode = 200;
  return s;
}

TempFolder::TempFolder() {
  static std::atomic<int> count{0};
  folder_ = std::filesystem::temp_directory_path() /
            ("tandem-trace-" + std::to_string(getpid()) + "-" + std::to_string(++count));
  std::filesystem::create_directories(folder_);
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::vector<std::string> TempFolder::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace tandem::test
