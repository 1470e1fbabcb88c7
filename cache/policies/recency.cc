#include "cache/policies/recency.h"

namespace tandem {

LeastRecentlyUsed::LeastRecentlyUsed(const CacheShape& shape)
    : n_experts_(shape.n_experts),
      last_use_(static_cast<size_t>(shape.n_layers) * static_cast<size_t>(shape.n_experts), 0),
      keys_(static_cast<size_t>(shape.n_slots)) {}

size_t LeastRecentlyUsed::index(ExpertKey key) const {
  return static_cast<size_t>(key.layer.value) * static_cast<size_t>(n_experts_) +
         static_cast<size_t>(key.expert.value);
}

void LeastRecentlyUsed::on_use(LayerId layer, std::span<const ExpertId> experts) {
  for (size_t i = experts.size(); i-- > 0;) last_use_[index({layer, experts[i]})] = ++clock_;
}

void LeastRecentlyUsed::on_insert(SlotId slot, ExpertKey key) {
  keys_[static_cast<size_t>(slot.value)] = key;
}

SlotId LeastRecentlyUsed::victim(std::span<const uint8_t> locked) const {
  SlotId best;
  uint64_t best_use = 0;
  for (size_t s = 0; s < keys_.size(); ++s) {
    if (locked[s] != 0 || !keys_[s].expert.valid()) continue;
    const uint64_t use = last_use_[index(keys_[s])];
    if (!best.valid() || use < best_use) {
      best = SlotId{static_cast<int32_t>(s)};
      best_use = use;
    }
  }
  return best;
}

}  // namespace tandem
