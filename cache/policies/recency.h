// LRU over one pool: the expert whose layer step used it longest ago leaves first.
// Within one layer step all experts count as used at the same moment; the lighter one is older.
#pragma once

#include "cache/eviction_policy.h"

namespace tandem {

class LeastRecentlyUsed final : public EvictionPolicy {
 public:
  explicit LeastRecentlyUsed(const CacheShape& shape);
  void on_use(LayerId layer, std::span<const ExpertId> experts) override;
  void on_insert(SlotId slot, ExpertKey key) override;
  SlotId victim(std::span<const uint8_t> locked) const override;

 private:
  size_t index(ExpertKey key) const;

  int32_t n_experts_;
  uint64_t clock_ = 0;
  std::vector<uint64_t> last_use_;  // [n_layers * n_experts]
  std::vector<ExpertKey> keys_;     // [n_slots], invalid where empty
};

}  // namespace tandem
