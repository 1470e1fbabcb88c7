// Which layer gives a slot to which, in a cache whose layers have quotas that follow the routing.
// Decides only; the cache moves. Owned by one cache, called by its thread; never allocates after
// construction.
//
// The rule is Cliffhanger's (Cidon et al., NSDI 2016): climb the hill of hits, by what a little
// more or a little less room would change. A layer gains where it asks for its strongest absent
// experts, and loses where it asks for its weakest residents, as its eviction policy ranks them.
// Instead of a shadow queue stand the ranks of absent experts, and the layer that gives is the one
// that loses least instead of a random one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cache/types.h"

namespace tandem {

class QuotaAdapter {
 public:
  // How many experts on each side of a layer's quota count as marginal. One alone is asked for too
  // rarely to be told from chance.
  static constexpr int32_t margin(int32_t quota) { return std::clamp(quota / 3, 1, 8); }
  // Visits of a layer after a change of its quota before it takes part again.
  static constexpr int32_t kObserved = 8;
  // Visits after which what was counted loses half its weight.
  static constexpr int32_t kMemory = 64;
  // How many more uses the taker must gain than the giver loses, as a share.
  static constexpr double kHysteresis = 0.25;

  explicit QuotaAdapter(int32_t n_layers) : counts_(static_cast<size_t>(n_layers)) {}

  // One visit of a layer: uses of absent and of resident marginal experts, divided by the margin.
  void note(LayerId layer, double absent, double resident);

  struct Layer {
    int32_t slot_class = 0;  // slots move within one
    bool may_take = false;
    bool may_give = false;
  };
  struct Move {
    LayerId from;
    LayerId to;
  };
  // The move that gains most, of equal ones that of the earliest taker and then giver; none where
  // nothing is gained. Both layers then have to be observed anew.
  std::optional<Move> next(std::span<const Layer> layers);

 private:
  struct Count {
    int32_t visits = 0;
    double absent = 0;
    double resident = 0;
  };
  bool observed(size_t layer) const { return counts_[layer].visits >= kObserved; }
  double gain(size_t from, size_t to) const;

  std::vector<Count> counts_;  // [n_layers]
};

}  // namespace tandem
