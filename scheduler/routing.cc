#include "scheduler/routing.h"

#include <algorithm>
#include <bit>
#include <cmath>
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

// Without a branch, so that it is a few vector operations.
bool all_finite(const float* values, size_t n) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t any = 0;
  for (size_t e = 0; e < n; ++e) {
    any |= static_cast<uint32_t>((std::bit_cast<uint32_t>(values[e]) & kExponent) == kExponent);
  }
  return any == 0;
}

// The ids of the largest values, best first; of equals the lower id. One pass: nearly all values are
// below the last of those kept so far. kept: room for as many values as ids.
void largest(std::span<const float> values, std::span<ExpertId> ids, float* kept) {
  size_t n = 0;
  for (size_t e = 0; e < values.size(); ++e) {
    const float value = values[e];
    if (n == ids.size()) {
      if (!(value > kept[n - 1])) continue;
      --n;
    }
    size_t at = n++;
    for (; at > 0 && value > kept[at - 1]; --at) {
      kept[at] = kept[at - 1];
      ids[at] = ids[at - 1];
    }
    kept[at] = value;
    ids[at] = ExpertId{static_cast<int32_t>(e)};
  }
}

}  // namespace

Router::Router(RoutingRules rules, int32_t max_tokens, int32_t n_ranks)
    : rules_(std::move(rules)),
      n_ranks_(std::max(n_ranks, rules_.top_k)),
      scores_(static_cast<size_t>(rules_.n_experts)),
      selection_(scores_.size()),
      kept_(static_cast<size_t>(n_ranks_)),
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

// One token's best experts, as many as `ids` has room for, and their scores; no scores for null.
bool Router::rank(const float* logits, std::span<ExpertId> ids, float* scores) {
  const size_t n = scores_.size();
  if (!all_finite(logits, n)) return false;
  if (scores == nullptr && rules_.bias.empty()) {  // scores would be in the same order
    largest({logits, n}, ids, kept_.data());
    return true;
  }
  if (rules_.score == ScoreFunction::kSoftmax) {
    if (!softmax(logits, n, scores_.data())) return false;
  } else {
    for (size_t e = 0; e < n; ++e) scores_[e] = 1.0F / (1.0F + std::exp(-logits[e]));
  }
  selection_ = scores_;
  for (size_t e = 0; e < rules_.bias.size(); ++e) selection_[e] += rules_.bias[e];
  largest(selection_, ids, kept_.data());
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
  const auto k = static_cast<size_t>(rules_.top_k);
  const auto ranks = static_cast<size_t>(n_ranks_);
  const size_t n = static_cast<size_t>(n_tokens) * k;
  const size_t n_ranked = static_cast<size_t>(n_tokens) * ranks;
  TANDEM_CHECK(n <= ids_.size(), "%d tokens, room for %zu", n_tokens, ids_.size() / k);
  *out = {};
  for (size_t t = 0; t < static_cast<size_t>(n_tokens); ++t) {
    const auto ranked = std::span(ranked_).subspan(t * ranks, ranks);
    float* scores = &rank_scores_[t * ranks];
    if (!rank(logits + t * scores_.size(), ranked, scores)) return false;
    std::copy_n(ranked.begin(), k, &ids_[t * k]);
    weigh(scores, &weights_[t * k]);
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
  return true;
}

}  // namespace tandem
