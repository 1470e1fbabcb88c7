// What one layer of one step will do: where each activated expert runs, and what enters the cache.
// Made by a Planner, made true by ExpertCache::commit and Executor::run. The vectors are reused
// from layer to layer, so planning does not allocate once they have grown.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/types.h"

namespace tandem {

enum class Placement : uint8_t {
  kCpu,    // from host memory
  kGpu,    // resident in a slot
  kFetch,  // copied into a slot in this layer, then on the GPU
};

struct PlannedExpert {
  ExpertId expert;
  int32_t first = 0;  // its run in RoutingDecision::tokens
  int32_t count = 0;
  Placement placement = Placement::kCpu;
  SlotId slot;          // kGpu: where it is; kFetch: see `incoming`
  ModelTime ready = 0;  // kGpu: when its copy lands, should it still be on the way
};

// Where the modelled clocks stand; microseconds since the engine's start.
struct Clocks {
  ModelTime cpu = 0;
  ModelTime gpu = 0;
  ModelTime link = 0;
};

struct LayerPlan {
  LayerId layer;
  std::vector<PlannedExpert> experts;  // heaviest first
  std::vector<ExpertId> used;          // the same experts, for the cache
  // Experts that get a slot: first the kFetch ones in the order of `experts`, then admissions,
  // whose copy nobody in this layer waits for.
  std::vector<ExpertId> incoming;
  std::vector<ModelTime> ready;  // [incoming.size()]
  std::vector<SlotId> slots;     // [incoming.size()], filled by commit
  int32_t n_fetch = 0;
  Clocks end;  // modelled

  CacheAccess access() { return {layer, used, incoming, slots, ready}; }
};

}  // namespace tandem
