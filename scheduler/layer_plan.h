// What one layer of one step will do: where each activated expert runs, and what is fetched.
// Made by a Planner, made true by commit() and Executor::run. The vectors are reused from layer to
// layer, so planning does not allocate once they have grown.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/types.h"
#include "scheduler/layer_problem.h"

namespace tandem {

struct PlannedExpert {
  ExpertId expert;
  int32_t first = 0;  // its run in RoutingDecision::tokens
  int32_t count = 0;
  SlotId slot;          // where the GPU finds it; invalid when it has none of it, or streams it
  int32_t present = 0;  // leading pieces that were there or on their way
  ModelTime ready = 0;  // when they have landed
  int32_t gpu = 0;      // leading pieces that the GPU computes; the CPU computes the rest
};

struct LayerPlan {
  LayerUse use;
  int32_t pieces = 1;                  // of one expert
  std::vector<PlannedExpert> experts;  // heaviest first
  std::vector<ExpertId> used;          // the same experts, for the cache
  std::vector<int32_t> fetches;        // experts with gpu > present, in the order of copying
  Clocks start;                        // when the routing was known, modelled
  Clocks end;                          // when the layer ends, modelled
  CostFactors factors;                 // that the costs were corrected by

  // Fetched experts may pass through a buffer instead of a slot, and who gets a slot.
  bool streams = false;
  Admission admission{};

  // For commit(): the fetched experts that have no slot yet.
  std::vector<ExpertId> incoming;
  std::vector<SlotId> slots;
  std::vector<int32_t> incoming_pieces;

  LayerId layer() const { return use.layer; }
};

// Notes the use in the cache, gives slots to what comes in, and marks the fetched pieces as on
// their way, landed when the layer's copies are.
void commit(LayerPlan* plan, ExpertCache* cache);

}  // namespace tandem
