#include "cache/expert_cache.h"

#include <utility>

#include "cache/check.h"

namespace tandem {

ExpertCache::ExpertCache(const CacheShape& shape, std::unique_ptr<EvictionPolicy> policy)
    : shape_(shape),
      policy_(std::move(policy)),
      slot_of_(static_cast<size_t>(shape.n_layers) * static_cast<size_t>(shape.n_experts)),
      keys_(static_cast<size_t>(shape.n_slots)),
      ready_(static_cast<size_t>(shape.n_slots), 0.0),
      locked_(static_cast<size_t>(shape.n_slots), 0) {
  TANDEM_CHECK(policy_ != nullptr, "an eviction policy is needed");
}

size_t ExpertCache::index(ExpertKey key) const {
  TANDEM_CHECK(key.layer.valid() && key.layer.value < shape_.n_layers && key.expert.valid() &&
                   key.expert.value < shape_.n_experts,
               "layer %d expert %d of %d x %d", key.layer.value, key.expert.value, shape_.n_layers,
               shape_.n_experts);
  return static_cast<size_t>(key.layer.value) * static_cast<size_t>(shape_.n_experts) +
         static_cast<size_t>(key.expert.value);
}

SlotId ExpertCache::find(ExpertKey key) const { return slot_of_[index(key)]; }

int32_t ExpertCache::room_beside(LayerId layer, std::span<const ExpertId> used) const {
  int32_t kept = 0;
  for (const ExpertId expert : used) kept += find({layer, expert}).valid() ? 1 : 0;
  return shape_.n_slots - kept;
}

void ExpertCache::commit(const CacheAccess& access) {
  TANDEM_CHECK(access.slots.size() == access.incoming.size() &&
                   access.ready.size() == access.incoming.size(),
               "%zu incoming, %zu slots, %zu times", access.incoming.size(), access.slots.size(),
               access.ready.size());
  for (const ExpertId expert : access.used) {
    const SlotId slot = find({access.layer, expert});
    if (slot.valid()) {
      ++stats_.hits;
      locked_[static_cast<size_t>(slot.value)] = 1;
    } else {
      ++stats_.misses;
    }
  }
  policy_->on_use(access.layer, access.used);
  for (size_t i = 0; i < access.incoming.size(); ++i) {
    const ExpertKey key{access.layer, access.incoming[i]};
    TANDEM_CHECK(!find(key).valid(), "layer %d expert %d is resident already", key.layer.value,
                 key.expert.value);
    const SlotId slot = free_slot();
    TANDEM_CHECK(slot.valid(), "no slot for incoming expert %zu of %zu", i + 1,
                 access.incoming.size());
    insert(key, slot, access.ready[i]);
    locked_[static_cast<size_t>(slot.value)] = 1;
    access.slots[i] = slot;
  }
  for (const ExpertId expert : access.used) {
    const SlotId slot = find({access.layer, expert});
    if (slot.valid()) locked_[static_cast<size_t>(slot.value)] = 0;
  }
  for (const SlotId slot : access.slots) locked_[static_cast<size_t>(slot.value)] = 0;
}

SlotId ExpertCache::free_slot() {
  // Slots fill in order and are never emptied, so the first empty one is the resident count.
  if (n_resident_ < shape_.n_slots) return SlotId{n_resident_++};
  const SlotId slot = policy_->victim(locked_);
  if (!slot.valid()) return slot;
  ++stats_.evictions;
  slot_of_[index(keys_[static_cast<size_t>(slot.value)])] = SlotId{};
  return slot;
}

void ExpertCache::insert(ExpertKey key, SlotId slot, ModelTime ready) {
  ++stats_.inserts;
  const auto s = static_cast<size_t>(slot.value);
  slot_of_[index(key)] = slot;
  keys_[s] = key;
  ready_[s] = ready;
  policy_->on_insert(slot, key);
}

}  // namespace tandem
