// Policies that keep one small record of use for each expert and evict the expert with the
// smallest record. The records belong to the expert, not to the slot: they outlive eviction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"

namespace tandem {

// Use: ordered by <, default-constructed for an expert never used, and with note(clock), called
// at each use with a clock that always grows.
template <typename Use>
class RankedPolicy final : public EvictionPolicy {
 public:
  explicit RankedPolicy(const CacheShape& shape)
      : n_experts_(shape.n_experts),
        use_(static_cast<size_t>(shape.n_layers) * static_cast<size_t>(shape.n_experts)),
        keys_(static_cast<size_t>(shape.n_slots)) {}

  // Within one layer step all experts are used at the same moment; the lighter one counts as older.
  void on_use(LayerId layer, std::span<const ExpertId> experts) override {
    for (size_t i = experts.size(); i-- > 0;) use_[index({layer, experts[i]})].note(++clock_);
  }

  void on_insert(SlotId slot, ExpertKey key) override {
    keys_[static_cast<size_t>(slot.value)] = key;
  }

  SlotId victim(std::span<const uint8_t> locked) const override {
    SlotId best;
    Use least{};
    for (size_t s = 0; s < keys_.size(); ++s) {
      if (locked[s] != 0 || !keys_[s].expert.valid()) continue;
      const Use& use = use_[index(keys_[s])];
      if (best.valid() && !(use < least)) continue;
      best = SlotId{static_cast<int32_t>(s)};
      least = use;
    }
    return best;
  }

 private:
  size_t index(ExpertKey key) const {
    return static_cast<size_t>(key.layer.value) * static_cast<size_t>(n_experts_) +
           static_cast<size_t>(key.expert.value);
  }

  int32_t n_experts_;
  uint64_t clock_ = 0;
  std::vector<Use> use_;         // [n_layers * n_experts]
  std::vector<ExpertKey> keys_;  // [n_slots], invalid where empty
};

}  // namespace tandem
