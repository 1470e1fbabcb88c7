// Tables that say without any product which experts are used: the experts of a layer say it of
// later ones (pairs), a token's id says it of every layer. And what they say, as pure functions.
// Immutable once built; any thread may read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/types.h"

namespace tandem {

// Log-odds of use in layer source + distance: its base rate's, and what each expert that is used in
// the source layer adds.
struct PairLink {
  int32_t source = 0;
  int32_t distance = 1;
  std::vector<uint16_t> adds;  // [E, E] IEEE half precision: row e is added where e is used
  // P(use) = sigmoid(scale m + offset), as PregateLink's.
  float calib_scale = 1;
  float calib_offset = 0;
};

// Of token ids that were seen often enough: the experts that they use most in each layer.
struct TokenTable {
  static constexpr int64_t kMostTokens = 32768;

  std::vector<int32_t> ids;       // [T] rising
  std::vector<uint16_t> experts;  // [T, L, listed] by falling P(use)
  std::vector<uint8_t> use;       // [T, L, listed] P(use) in steps of 1/255

  // Of ids; -1: not known.
  int64_t row(int32_t token) const;
};

// Experts of a layer that a token's row lists.
inline int32_t listed_experts(int32_t n_experts, int32_t top_k) {
  return 2 * top_k < n_experts ? 2 * top_k : n_experts;
}

struct ExpertTables {
  int32_t n_experts = 0;
  int32_t top_k = 0;
  std::vector<std::vector<float>> hot;  // [L] of [E]: rates of use of the training tokens
  std::vector<PairLink> pairs;          // by source, then distance; those that lead to a layer
  TokenTable tokens;

  // Null where that leads behind the last layer.
  const PairLink* pair(int32_t source, int32_t distance) const;
};

// log(p / (1 - p)) of each rate, bounded: rates of 0 and 1 have finite ones. Both: [E].
void log_odds(std::span<const float> rates, std::span<float> out);

// Log-odds of each expert's use in the link's target layer, before calibration. base: [E], the
// log-odds of that layer's rates; used: the token's experts in the source layer; scores: [E];
// scratch: [E].
void pair_scores(const PairLink& link, std::span<const float> base, std::span<const ExpertId> used,
                 std::span<float> scores, std::span<float> scratch);

// P(use) by a link's calibration: of a logit's height above the middle between the last one that is
// selected and the next. All: [E].
void calibrated_use(float scale, float offset, int32_t top_k, std::span<const float> logits,
                    std::span<float> use, std::span<float> scratch);

// P(use) of each expert in a layer by a token whose row this is (-1: not known, so that the rates
// of use stand for it). Those that the row does not list share what is left of top_k in proportion
// to their rates. use: [E].
void token_use(const ExpertTables& tables, int32_t layer, int64_t row, std::span<float> use);

// Raises those of `use` that are below 0, which stands for "not known", so that the sum of all is
// `total`, as far as that is above the sum of the others: in proportion to `rates`, at most 1 each.
void share_rest(std::span<const float> rates, float total, std::span<float> use);

// The experts with the largest values, descending, ties to the lower id. ids.size() <= [E].
void largest(std::span<const float> values, std::span<ExpertId> ids);

}  // namespace tandem
