#include "cache/policies/frequency.h"

namespace tandem {

LeastFrequentlyUsed::LeastFrequentlyUsed(const CacheShape& shape)
    : n_experts_(shape.n_experts),
      use_(static_cast<size_t>(shape.n_layers) * static_cast<size_t>(shape.n_experts)),
      keys_(static_cast<size_t>(shape.n_slots)) {}

size_t LeastFrequentlyUsed::index(ExpertKey key) const {
  return static_cast<size_t>(key.layer.value) * static_cast<size_t>(n_experts_) +
         static_cast<size_t>(key.expert.value);
}

void LeastFrequentlyUsed::on_use(LayerId layer, std::span<const ExpertId> experts) {
  for (size_t i = experts.size(); i-- > 0;) {
    Use& use = use_[index({layer, experts[i]})];
    ++use.count;
    use.last = ++clock_;
  }
}

void LeastFrequentlyUsed::on_insert(SlotId slot, ExpertKey key) {
  keys_[static_cast<size_t>(slot.value)] = key;
}

SlotId LeastFrequentlyUsed::victim(std::span<const uint8_t> locked) const {
  SlotId best;
  Use best_use;
  for (size_t s = 0; s < keys_.size(); ++s) {
    if (locked[s] != 0 || !keys_[s].expert.valid()) continue;
    const Use& use = use_[index(keys_[s])];
    if (!best.valid() || use < best_use) {
      best = SlotId{static_cast<int32_t>(s)};
      best_use = use;
    }
  }
  return best;
}

}  // namespace tandem
