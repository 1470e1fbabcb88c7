// How often guesses come true of experts that the cache does not have. What is guessed and right is
// mostly what is used often, which is cached; so of the absent ones fewer come true than of all.
// Owned by a prefetcher. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/routing.h"

namespace tandem {

class AbsentGuesses {
 public:
  AbsentGuesses(int32_t n_layers, int32_t n_experts, int32_t max_ahead);

  // The layer is about to be guessed; what a step that was stopped has left is forgotten.
  void begin(LayerId layer, int32_t ahead) { guesses(layer.value, ahead).clear(); }
  // An absent expert of the layer is guessed, so many layers ahead, to be used by `load` tokens.
  void add(ExpertKey key, int32_t ahead, float load);
  // The layer's routing is known.
  void observe(const RoutingDecision& routing);
  // What such guesses came to of late, as a share of what they promised: uses, a load counting as
  // one at most. 1 before there was any, and never more.
  double share(int32_t ahead) const;

 private:
  struct Guess {
    ExpertId expert;
    float use = 0;
  };
  struct Average {
    double promised = 1;
    double came = 1;
  };
  std::vector<Guess>& guesses(int32_t layer, int32_t ahead) {
    return guesses_[static_cast<size_t>(layer * max_ahead_ + ahead - 1)];
  }

  int32_t max_ahead_;
  std::vector<std::vector<Guess>> guesses_;  // [n_layers, max_ahead] not settled yet
  std::vector<Average> averages_;            // [max_ahead] of a layer's sums
  std::vector<bool> used_;                   // [n_experts] in the layer observed last
};

}  // namespace tandem
