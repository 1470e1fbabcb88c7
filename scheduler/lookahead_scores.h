// How well a lookahead guesses, for each layer and distance, on tokens that are decoded one by one.
// Whatever guesses, and whether anybody acts on it or not. Missing ids, as traces have them, are
// none. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/routing.h"

namespace tandem {

struct LookaheadScore {
  int64_t tokens = 0;
  int64_t calibrated = 0;  // of these: with P(use) of each expert
  double recall = 0;       // mean share of a token's experts among the top_k that were guessed
  double exact = 0;        // share of tokens whose experts were guessed all
  // Of calibrated ones: the same among the 2 top_k that were most probable; mean (P(use) - used)^2
  // over all experts.
  double recall_wide = 0;
  double brier = 0;
};

class LookaheadScores {
 public:
  LookaheadScores(int32_t n_layers, int32_t n_experts, int32_t top_k, int32_t n_distances);

  // A layer's routing, and with it what is guessed for the layers after it.
  void observe(const RoutingDecision& routing);

  int32_t n_layers() const { return n_layers_; }
  int32_t n_distances() const { return n_distances_; }
  // Of guesses for this layer, made so many layers before it, from 1 on; behind fewer layers than
  // that, in the token before.
  LookaheadScore of(int32_t layer, int32_t distance) const;
  // Over all layers that are guessed in their own token, and in the token before.
  LookaheadScore of(int32_t distance) const { return sum_of(distance, n_layers_, distance); }
  LookaheadScore of_next_token(int32_t distance) const { return sum_of(0, distance, distance); }

 private:
  struct Guess {
    bool valid = false;
    std::vector<ExpertId> ids;  // [top_k]
    std::vector<float> use;     // [n_experts]
    bool calibrated = false;
  };
  struct Sums {
    int64_t tokens = 0, calibrated = 0;
    double right = 0, exact = 0, right_wide = 0, brier = 0;
  };

  size_t index(int32_t layer, int32_t distance) const {
    return static_cast<size_t>(layer * n_distances_ + distance - 1);
  }
  void score(const Guess& guess, Sums* sums);
  LookaheadScore score_of(const Sums& sums) const;
  // Over layers from first up to end, which may lie behind the last one.
  LookaheadScore sum_of(int32_t first, int32_t end, int32_t distance) const;

  int32_t n_layers_;
  int32_t top_k_;
  int32_t n_distances_;
  std::vector<Guess> guesses_;   // [n_layers, distances] for this layer
  std::vector<Sums> sums_;       // the same
  std::vector<int32_t> by_use_;  // [n_experts]
  std::vector<uint8_t> used_;    // [n_experts]
};

}  // namespace tandem
