// One layer's placement problem, and what a placement takes: the model that planners search in,
// simulators run on, and tests rebuild by brute force. Pure.
//
// Three resources. The GPU computes what is there at once, then what is on its way, then what is
// fetched, each when it has landed. The link copies one expert after the other. The CPU computes
// the rest, slower while the link copies, because both read the same memory.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/types.h"
#include "scheduler/cost_model.h"

namespace tandem {

// Where the modelled clocks stand; microseconds since the engine's start.
struct Clocks {
  ModelTime cpu = 0;
  ModelTime gpu = 0;
  ModelTime link = 0;  // when the copies that have been issued have landed
};

// An activated expert.
struct LayerItem {
  int32_t count = 0;    // tokens
  int32_t present = 0;  // leading pieces in VRAM or on their way
  ModelTime ready = 0;  // when they have landed; at most Clocks::link
  int32_t gpu = 0;      // chosen: leading pieces that the GPU computes; the CPU computes the rest
};

struct LayerProblem {
  LayerCosts cost;
  Clocks now;
  int32_t room = 0;              // how many experts without a slot could get one
  bool may_split = true;         // whether an expert may be divided anew between CPU and GPU
  std::vector<LayerItem> items;  // heaviest first

  // Filled by layer_end(): items that the GPU must wait for because their copy is on its way, by
  // arrival, and items with gpu > present in the order in which they are best copied.
  std::vector<int32_t> late;
  std::vector<int32_t> fetch_order;
};

// When the chosen placement ends. Does not allocate once the vectors
// have grown.
//
// The order of copies is Johnson's rule for two machines in a row (Naval Research Logistics
// Quarterly 1, 1954), which is optimal whenever the second machine becomes free.
Clocks layer_end(LayerProblem* problem);

// CPU work that takes `alone` with the link idle and `shared` beside a copying link, of which the
// first `copying` microseconds are shared.
double cpu_stretched(double alone, double shared, double copying);

}  // namespace tandem
