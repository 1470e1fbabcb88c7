// Which experts are resident in device memory, and where. Pure bookkeeping: no bytes move here.
// Owned by the engine; called only by the thread that runs the step loop. Never allocates after
// construction.
//
// Access is event-atomic. A layer's whole set of experts is classified against the state before
// it; commit() then takes note of the use, protects the set, and gives slots to what comes in.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"
#include "cache/types.h"

namespace tandem {

// What one layer of one step does to the cache.
struct CacheAccess {
  LayerId layer;
  std::span<const ExpertId> used;      // every activated expert, heaviest first
  std::span<const ExpertId> incoming;  // absent experts that get a slot
  std::span<SlotId> slots;             // [incoming.size()], filled by commit()
  std::span<const ModelTime> ready;    // [incoming.size()], when the copy is expected to be done
};

struct CacheStats {
  uint64_t hits = 0;  // experts found resident, one count per layer and step
  uint64_t misses = 0;
  uint64_t inserts = 0;
  uint64_t evictions = 0;
};

class ExpertCache {
 public:
  ExpertCache(const CacheShape& shape, std::unique_ptr<EvictionPolicy> policy);

  const CacheShape& shape() const { return shape_; }
  const CacheStats& stats() const { return stats_; }
  void reset_stats() { stats_ = {}; }
  int32_t resident() const { return n_resident_; }

  // The expert's slot; invalid when it is absent.
  SlotId find(ExpertKey key) const;
  // Who lives in the slot; an invalid key when nobody does.
  ExpertKey occupant(SlotId slot) const { return keys_[static_cast<size_t>(slot.value)]; }
  // When the slot's copy is expected to have landed.
  ModelTime ready_at(SlotId slot) const { return ready_[static_cast<size_t>(slot.value)]; }
  // How many absent experts could get a slot in this layer while all of `used` stay.
  int32_t room_beside(LayerId layer, std::span<const ExpertId> used) const;

  // The only writer. CHECKs that incoming experts are absent, distinct, and fit beside `used`.
  void commit(const CacheAccess& access);

 private:
  size_t index(ExpertKey key) const;
  void insert(ExpertKey key, SlotId slot, ModelTime ready);
  SlotId free_slot();

  CacheShape shape_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<SlotId> slot_of_;   // [n_layers * n_experts]
  std::vector<ExpertKey> keys_;   // [n_slots]
  std::vector<ModelTime> ready_;  // [n_slots]
  std::vector<uint8_t> locked_;   // [n_slots], set only inside commit()
  int32_t n_resident_ = 0;
  CacheStats stats_;
};

}  // namespace tandem
