// What a run leaves for the next one to start with: every layer's experts in the order of their
// worth. Only contents travel; an eviction policy starts with no memory of uses, as its records are
// its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/expert_cache.h"

namespace tandem {

struct HotExpert {
  ExpertId expert;
  double value = 0;  // what keeping it was worth to the policy, comparable across layers
};

struct HotSet {
  std::string model;        // a name
  std::string router_hash;  // of the router tensors; empty where it is not known
  int32_t n_layers = 0;     // with routed experts
  int32_t n_experts = 0;
  std::vector<std::vector<HotExpert>> layers;  // [n_layers], best first, each expert at most once
};

// All experts as the cache's policy values them, residents before others of the same value, then by
// id. Names no model. CHECKs that the values are finite, as those of policies that need no future
// are.
HotSet hot_set_of(const ExpertCache& cache);

}  // namespace tandem
