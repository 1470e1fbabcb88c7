#include "scheduler/routing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "cache/check.h"

namespace tandem {
namespace {

// False when the result is not finite. logits, scores: [n].
bool softmax(const float* logits, size_t n, float* scores) {
  const float top = *std::max_element(logits, logits + n);
  float sum = 0.0F;
  for (size_t e = 0; e < n; ++e) sum += scores[e] = std::exp(logits[e] - top);
  for (size_t e = 0; e < n; ++e) scores[e] /= sum;
  return std::isfinite(sum) && std::isfinite(top);
}

// Experts are dealt to so many piles, e to e % kPiles, of which the largest are found side by side.
constexpr size_t kPiles = 16;
constexpr float kTaken = -std::numeric_limits<float>::infinity();

float larger(float a, float b) { return a > b ? a : b; }

}  // namespace

bool all_finite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7F800000;
  constexpr uint32_t kOne = 0x00800000;  // carries an exponent of ones alone into the highest bit
  uint32_t any = 0;
  for (const float v : values) any |= (std::bit_cast<uint32_t>(v) & kExponent) + kOne;
  return any >> 31U == 0;
}

float selection_middle(std::span<const float> logits, int32_t top_k, std::span<float> scratch) {
  if (top_k >= static_cast<int32_t>(logits.size())) {
    return *std::min_element(logits.begin(), logits.end());
  }
  std::copy(logits.begin(), logits.end(), scratch.begin());
  const auto next = scratch.begin() + top_k;
  const auto end = scratch.begin() + static_cast<std::ptrdiff_t>(logits.size());
  std::nth_element(scratch.begin(), next, end, std::greater<>());
  return (*std::min_element(scratch.begin(), next) + *next) / 2;
}

Router::Router(RoutingRules rules, int32_t max_tokens, int32_t n_ranks)
    : rules_(std::move(rules)),
      n_ranks_(std::max(n_ranks, rules_.top_k)),
      scores_(static_cast<size_t>(rules_.n_experts)),
      selection_(scores_.size()),
      left_((scores_.size() + kPiles - 1) / kPiles * kPiles, kTaken),
      ranked_(static_cast<size_t>(max_tokens) * static_cast<size_t>(n_ranks_)),
      rank_scores_(ranked_.size()),
      ids_(static_cast<size_t>(max_tokens) * static_cast<size_t>(rules_.top_k)),
      weights_(ids_.size()),
      cursor_(scores_.size()),
      tokens_(ids_.size()) {
  TANDEM_CHECK(rules_.top_k >= 1 && n_ranks_ <= rules_.n_experts, "top-%d, %d ranks of %d experts",
               rules_.top_k, n_ranks_, rules_.n_experts);
  loads_.reserve(scores_.size());
}

// The ids of the largest values, all finite, best first; of equals the lower id.
void Router::best(std::span<const float> values, std::span<ExpertId> ids) {
  std::copy(values.begin(), values.end(), left_.begin());
  std::array<float, kPiles> tops{};
  std::copy_n(left_.begin(), kPiles, tops.begin());
  for (size_t row = kPiles; row < left_.size(); row += kPiles) {
    for (size_t p = 0; p < kPiles; ++p) tops[p] = larger(tops[p], left_[row + p]);
  }
  for (ExpertId& id : ids) {
    float top = kTaken;
    for (const float of_pile : tops) top = larger(top, of_pile);
    size_t best = left_.size();
    for (size_t p = 0; p < kPiles; ++p) {
      if (tops[p] != top) continue;
      size_t e = p;
      while (left_[e] != top) e += kPiles;
      best = std::min(best, e);
    }
    id = ExpertId{static_cast<int32_t>(best)};
    left_[best] = kTaken;
    float of_pile = kTaken;
    for (size_t e = best % kPiles; e < left_.size(); e += kPiles)
      of_pile = larger(of_pile, left_[e]);
    tops[best % kPiles] = of_pile;
  }
}

// One token's best experts, as many as `ids` has room for, and their scores; no scores for null.
bool Router::rank(const float* logits, std::span<ExpertId> ids, float* scores) {
  const size_t n = scores_.size();
  if (!all_finite({logits, n})) return false;
  if (scores == nullptr && rules_.bias.empty()) {  // scores would be in the same order
    best({logits, n}, ids);
    return true;
  }
  if (rules_.score == ScoreFunction::kSoftmax) {
    if (!softmax(logits, n, scores_.data())) return false;
  } else {
    for (size_t e = 0; e < n; ++e) scores_[e] = 1.0F / (1.0F + std::exp(-logits[e]));
  }
  selection_ = scores_;
  for (size_t e = 0; e < rules_.bias.size(); ++e) selection_[e] += rules_.bias[e];
  best(selection_, ids);
  if (scores != nullptr) {
    for (size_t r = 0; r < ids.size(); ++r) scores[r] = scores_[static_cast<size_t>(ids[r].value)];
  }
  return true;
}

bool Router::select(const float* logits, int32_t n_tokens, std::span<ExpertId> ids) {
  const auto k = static_cast<size_t>(rules_.top_k);
  TANDEM_CHECK(ids.size() == static_cast<size_t>(n_tokens) * k, "%d tokens, room for %zu", n_tokens,
               ids.size() / k);
  for (size_t t = 0; t < static_cast<size_t>(n_tokens); ++t) {
    if (!rank(logits + t * scores_.size(), ids.subspan(t * k, k), nullptr)) return false;
  }
  return true;
}

// The selected experts' weights, from their scores. [top_k]
void Router::weigh(const float* scores, float* weights) const {
  float sum = 0.0F;
  for (int32_t k = 0; k < rules_.top_k; ++k) sum += scores[k];
  for (int32_t k = 0; k < rules_.top_k; ++k) {
    weights[k] = rules_.normalize && sum > 0.0F ? scores[k] / sum : scores[k];
    weights[k] *= rules_.scale;
  }
}

bool Router::route(LayerId layer, const float* logits, int32_t n_tokens, RoutingDecision* out) {
  const auto ranks = static_cast<size_t>(n_ranks_);
  const auto n = static_cast<size_t>(n_tokens);
  TANDEM_CHECK(n * ranks <= ranked_.size(), "%d tokens, room for %zu", n_tokens,
               ranked_.size() / ranks);
  *out = {};
  for (size_t t = 0; t < n; ++t) {
    const auto ranked = std::span(ranked_).subspan(t * ranks, ranks);
    if (!rank(logits + t * scores_.size(), ranked, &rank_scores_[t * ranks])) return false;
  }
  decide(layer, n_tokens, out);
  return true;
}

bool Router::arrange(LayerId layer, std::span<const ExpertId> ids, const float* scores,
                     int32_t n_tokens, RoutingDecision* out) {
  const size_t n = static_cast<size_t>(n_tokens) * static_cast<size_t>(n_ranks_);
  TANDEM_CHECK(ids.size() == n && n <= ranked_.size(), "%d tokens, %zu ids, room for %zu", n_tokens,
               ids.size(), ranked_.size());
  *out = {};
  for (const ExpertId id : ids) {
    if (id.value < 0 || id.value >= rules_.n_experts) return false;
  }
  std::copy(ids.begin(), ids.end(), ranked_.begin());
  std::copy_n(scores, n, rank_scores_.begin());
  decide(layer, n_tokens, out);
  return true;
}

// Of what is ranked.
void Router::decide(LayerId layer, int32_t n_tokens, RoutingDecision* out) {
  const auto k = static_cast<size_t>(rules_.top_k);
  const auto ranks = static_cast<size_t>(n_ranks_);
  const size_t n = static_cast<size_t>(n_tokens) * k;
  const size_t n_ranked = static_cast<size_t>(n_tokens) * ranks;
  for (size_t t = 0; t < static_cast<size_t>(n_tokens); ++t) {
    std::copy_n(&ranked_[t * ranks], k, &ids_[t * k]);
    weigh(&rank_scores_[t * ranks], &weights_[t * k]);
  }
  // A counting sort by expert: rows of one expert stay in batch order.
  std::fill(cursor_.begin(), cursor_.end(), 0);
  for (size_t i = 0; i < n; ++i) ++cursor_[static_cast<size_t>(ids_[i].value)];
  loads_.clear();
  int32_t first = 0;
  for (size_t e = 0; e < cursor_.size(); ++e) {
    const int32_t count = std::exchange(cursor_[e], first);
    if (count > 0) loads_.push_back({ExpertId{static_cast<int32_t>(e)}, first, count});
    first += count;
  }
  for (size_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(cursor_[static_cast<size_t>(ids_[i].value)]++);
    tokens_[at] = {static_cast<int32_t>(i / k), weights_[i]};
  }
  *out = {layer,
          n_tokens,
          rules_.top_k,
          std::span(ids_).first(n),
          std::span(weights_).first(n),
          loads_,
          std::span(tokens_).first(n),
          n_ranks_,
          std::span(ranked_).first(n_ranked),
          std::span(rank_scores_).first(n_ranked),
          0,
          {}};
}

}  // namespace tandem
