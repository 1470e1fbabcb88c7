// Who leaves when a slot is needed. A policy only ranks; the cache moves.
// One policy object belongs to one cache and is called by the thread that runs the step loop.
// No call allocates after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/types.h"

namespace tandem {

struct CacheShape {
  int32_t n_layers = 0;
  int32_t n_experts = 0;  // per layer
  int32_t n_slots = 0;
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // One layer's routing in one step, hits and misses alike, heaviest expert first.
  virtual void on_use(LayerId layer, std::span<const ExpertId> experts) = 0;
  // `key` now lives in `slot`, which was empty or has just been evicted.
  virtual void on_insert(SlotId slot, ExpertKey key) = 0;
  // The slot to empty, among occupied slots with locked[slot] == 0; invalid when there is none.
  virtual SlotId victim(std::span<const uint8_t> locked) const = 0;
};

// Names that make_eviction_policy knows, sorted.
std::vector<std::string_view> eviction_policy_names();
// nullptr for an unknown name.
std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name,
                                                     const CacheShape& shape);

}  // namespace tandem
