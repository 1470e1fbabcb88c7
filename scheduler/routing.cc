#include "scheduler/routing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "cache/check.h"
#include "cache/wide.h"

namespace tandem {
namespace {

constexpr float kLeastExponent = -87;  // of what is still a normal number

// e^x for kLeastExponent <= x <= 0, to 2e-7 of it. Without branches and calls, so that a loop takes
// several at a time. Range reduction after Cody and Waite 1980.
float exp_of(float x) {
  const auto whole = static_cast<int32_t>(x * 1.44269504F - 0.5F);  // 1 / ln 2; to the nearest
  const auto n = static_cast<float>(whole);
  const float r = x - n * 0.693359375F + n * 2.12194440e-4F;  // ln 2 in two parts
  const float series =
      1.0F +
      r * (1.0F +
           r * (1.0F / 2 + r * (1.0F / 6 + r * (1.0F / 24 + r * (1.0F / 120 + r * (1.0F / 720))))));
  return series * std::bit_cast<float>((whole + 127) << 23);
}

// logits: finite. logits, scores: [n]. In lanes, which do not wait for each other.
TANDEM_WIDE void softmax(const float* logits, size_t n, float* scores) {
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> lanes;
  lanes.fill(logits[0]);
  const size_t whole = n / kLanes * kLanes;
  for (size_t e = 0; e < whole; e += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) {
      lanes[l] = logits[e + l] > lanes[l] ? logits[e + l] : lanes[l];
    }
  }
  for (size_t e = whole; e < n; ++e) lanes[0] = std::max(lanes[0], logits[e]);
  const float top = *std::max_element(lanes.begin(), lanes.end());
  for (size_t e = 0; e < n; ++e) {
    const float x = logits[e] - top;
    scores[e] = x > kLeastExponent ? x : kLeastExponent;
  }
  for (size_t e = 0; e < n; ++e) scores[e] = exp_of(scores[e]);
  lanes.fill(0);
  for (size_t e = 0; e < whole; e += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] += scores[e + l];
  }
  for (size_t e = whole; e < n; ++e) lanes[0] += scores[e];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (size_t e = 0; e < n; ++e) scores[e] /= sum;
}

// The id and a value as a number that is larger the better, which is compared without branches.
uint64_t key(float value, size_t id) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0F);  // -0 is 0
  const uint32_t ordered = bits ^ (bits >> 31 != 0 ? 0xFFFFFFFFU : 0x80000000U);
  return uint64_t{ordered} << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(id));
}
ExpertId id_of(uint64_t key) {
  return ExpertId{static_cast<int32_t>(0xFFFFFFFFU - static_cast<uint32_t>(key))};
}

constexpr size_t kBlock = 8;  // keys of which the largest is kept

// n: a multiple of four, which do not wait for each other.
uint64_t largest(const uint64_t* keys, size_t n) {
  std::array<uint64_t, 4> best{};
  for (size_t i = 0; i < n; i += 4) {
    for (size_t j = 0; j < 4; ++j) best[j] = std::max(best[j], keys[i + j]);
  }
  return std::max(std::max(best[0], best[1]), std::max(best[2], best[3]));
}

}  // namespace

TANDEM_WIDE bool all_finite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7F800000;
  constexpr uint32_t kOne = 0x00800000;  // carries an exponent of ones alone into the highest bit
  // A vocabulary has 150,000 logits, so sixteen are looked at side by side.
  constexpr size_t kLanes = 16;
  std::array<uint32_t, kLanes> any{};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) {
      any[l] |= (std::bit_cast<uint32_t>(values[i + l]) & kExponent) + kOne;
    }
  }
  for (; i < values.size(); ++i) any[0] |= (std::bit_cast<uint32_t>(values[i]) & kExponent) + kOne;
  uint32_t all = 0;
  for (const uint32_t lane : any) all |= lane;
  return all >> 31U == 0;
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
      keys_((scores_.size() + kBlock - 1) / kBlock * kBlock),
      block_keys_((keys_.size() / kBlock + 3) / 4 * 4),
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

// The ids of the largest values, best first; of equals the lower id.
void Router::best(std::span<const float> values, std::span<ExpertId> ids) {
  for (size_t e = 0; e < values.size(); ++e) keys_[e] = key(values[e], e);
  for (size_t b = 0; b < keys_.size() / kBlock; ++b) {
    block_keys_[b] = largest(&keys_[b * kBlock], kBlock);
  }
  for (ExpertId& id : ids) {
    id = id_of(largest(block_keys_.data(), block_keys_.size()));
    const auto e = static_cast<size_t>(id.value);
    keys_[e] = 0;
    block_keys_[e / kBlock] = largest(&keys_[e / kBlock * kBlock], kBlock);
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
    softmax(logits, n, scores_.data());
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
  if (n_tokens == 1) {
    group_token();
  } else {
    group_tokens(n);
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

// One token's experts, by id.
void Router::group_token() {
  loads_.clear();
  for (int32_t k = 0; k < rules_.top_k; ++k) loads_.push_back({ids_[static_cast<size_t>(k)], k, 1});
  std::sort(loads_.begin(), loads_.end(), [](const ExpertLoad& a, const ExpertLoad& b) {
    return a.expert.value < b.expert.value;
  });
  for (size_t i = 0; i < loads_.size(); ++i) {
    const int32_t rank = std::exchange(loads_[i].first, static_cast<int32_t>(i));
    tokens_[i] = {0, weights_[static_cast<size_t>(rank)]};
  }
}

// A counting sort by expert: rows of one expert stay in batch order. n: of all ids.
void Router::group_tokens(size_t n) {
  const auto k = static_cast<size_t>(rules_.top_k);
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
}

}  // namespace tandem
