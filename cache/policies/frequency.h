// LFU over one pool: the expert with the fewest uses since the start leaves first; among equals
// the one used longest ago. Counts belong to the expert, not to the slot: they outlive eviction.
#pragma once

#include "cache/eviction_policy.h"

namespace tandem {

class LeastFrequentlyUsed final : public EvictionPolicy {
 public:
  explicit LeastFrequentlyUsed(const CacheShape& shape);
  void on_use(LayerId layer, std::span<const ExpertId> experts) override;
  void on_insert(SlotId slot, ExpertKey key) override;
  SlotId victim(std::span<const uint8_t> locked) const override;

 private:
  struct Use {
    uint64_t count = 0;
    uint64_t last = 0;
    auto operator<=>(const Use&) const = default;
  };
  size_t index(ExpertKey key) const;

  int32_t n_experts_;
  uint64_t clock_ = 0;
  std::vector<Use> use_;         // [n_layers * n_experts]
  std::vector<ExpertKey> keys_;  // [n_slots], invalid where empty
};

}  // namespace tandem
