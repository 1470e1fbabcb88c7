#include "runtime/trace/trace_recorder.h"

#include <algorithm>
#include <utility>

#include "cache/check.h"

namespace tandem {
namespace {

// Numbers of one token in the arrays of a trace.
struct TokenSize {
  explicit TokenSize(const TraceHeader& h)
      : ids(static_cast<size_t>(h.n_layers) * static_cast<size_t>(h.n_ranks)),
        predicted(static_cast<size_t>(h.n_layers) * static_cast<size_t>(h.n_ahead) *
                  static_cast<size_t>(h.top_k)) {}
  size_t ids;
  size_t predicted;
};

}  // namespace

TraceRecorder::TraceRecorder(TraceHeader header) { trace_.header = std::move(header); }

int64_t TraceRecorder::token_bytes(const TraceHeader& header) {
  const TokenSize size(header);
  return static_cast<int64_t>(size.ids * (sizeof(int16_t) + sizeof(float)) +
                              size.predicted * sizeof(int16_t));
}

void TraceRecorder::reserve(int64_t n_tokens) {
  const TokenSize size(trace_.header);
  const auto n = static_cast<size_t>(n_tokens);
  trace_.ids.reserve(n * size.ids);
  trace_.weights.reserve(n * size.ids);
  trace_.predicted.reserve(n * size.predicted);
}

void TraceRecorder::begin_sequence(int64_t prompt_tokens) {
  ++sequence_;
  prompt_left_ = prompt_tokens;
}

void TraceRecorder::observe(const RoutingDecision& routing) {
  const TraceHeader& h = trace_.header;
  TANDEM_CHECK(sequence_ >= 0 && routing.layer.value < h.n_layers && routing.top_k == h.top_k &&
                   routing.n_ranks == h.n_ranks && routing.n_ahead >= h.n_ahead,
               "layer %d, top-%d, %d ranks, %d ahead for a trace of %d, %d, %d, %d",
               routing.layer.value, routing.top_k, routing.n_ranks, routing.n_ahead, h.n_layers,
               h.top_k, h.n_ranks, h.n_ahead);
  const auto first = static_cast<size_t>(trace_.n_tokens());
  const auto n = static_cast<size_t>(routing.n_tokens);
  if (routing.layer.value == 0) {
    const TokenSize size(h);
    trace_.ids.resize((first + n) * size.ids);
    trace_.weights.resize((first + n) * size.ids);
    trace_.predicted.resize((first + n) * size.predicted);
  }
  for (size_t t = 0; t < n; ++t) {
    const size_t row =
        (first + t) * static_cast<size_t>(h.n_layers) + static_cast<size_t>(routing.layer.value);
    note(routing, t, row);
  }
  if (routing.layer.value + 1 < h.n_layers) return;
  const bool prefill = prompt_left_ > 0;
  prompt_left_ -= routing.n_tokens;
  trace_.steps.push_back({sequence_, prefill, static_cast<int64_t>(first), routing.n_tokens});
}

// row: of [n_tokens, n_layers]
void TraceRecorder::note(const RoutingDecision& routing, size_t token, size_t row) {
  const auto ranks = static_cast<size_t>(routing.n_ranks);
  const auto k = static_cast<size_t>(routing.top_k);
  const auto ahead = static_cast<size_t>(trace_.header.n_ahead);
  const auto n = static_cast<size_t>(routing.n_tokens);
  const auto as_id = [](ExpertId expert) { return static_cast<int16_t>(expert.value); };
  const auto at = [](auto& numbers, size_t i) {
    return numbers.begin() + static_cast<std::ptrdiff_t>(i);
  };
  const auto ranked = routing.ranked.subspan(token * ranks, ranks);
  std::transform(ranked.begin(), ranked.end(), at(trace_.ids, row * ranks), as_id);
  const auto scores = routing.scores.subspan(token * ranks, ranks);
  std::copy(scores.begin(), scores.end(), at(trace_.weights, row * ranks));
  for (size_t a = 0; a < ahead; ++a) {
    const auto guess = routing.predicted.subspan((a * n + token) * k, k);
    std::transform(guess.begin(), guess.end(), at(trace_.predicted, (row * ahead + a) * k), as_id);
  }
}

Trace TraceRecorder::finish() {
  const TokenSize size(trace_.header);
  const auto n = static_cast<size_t>(trace_.n_tokens());
  trace_.ids.resize(n * size.ids);
  trace_.weights.resize(n * size.ids);
  trace_.predicted.resize(n * size.predicted);
  return std::exchange(trace_, {});
}

std::vector<double> lookahead_recall(const Trace& trace) {
  const TraceHeader& h = trace.header;
  std::vector<double> recall;
  for (int32_t ahead = 1; ahead <= h.n_ahead; ++ahead) {
    int64_t right = 0;
    int64_t guessed = 0;
    for (int64_t t = 0; t < trace.n_tokens(); ++t) {
      for (int32_t l = 0; l + ahead < h.n_layers; ++l) {
        const auto used = trace.ids_of(t, l + ahead).first(static_cast<size_t>(h.top_k));
        for (const int16_t id : trace.predicted_of(t, l, ahead)) {
          if (id < 0) continue;
          ++guessed;
          right += std::find(used.begin(), used.end(), id) != used.end() ? 1 : 0;
        }
      }
    }
    recall.push_back(guessed > 0 ? static_cast<double>(right) / static_cast<double>(guessed) : 0);
  }
  return recall;
}

}  // namespace tandem
