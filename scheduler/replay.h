// A trace replayed through the cache alone: no clock, no planner, no prefetcher. What comes in is
// what was asked for and absent, a layer's whole set at once, so hit rates compare eviction
// policies and nothing else, and with forced admission no policy misses less often than Belady.
// A pure function; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/simulator.h"
#include "scheduler/trace.h"

namespace tandem {

struct ReplayInput {
  const Trace* trace = nullptr;
  std::vector<int64_t> expert_bytes;  // [n_layers]
  int64_t capacity_bytes = 0;
  PoolShape pool = PoolShape::kShared;

  std::string policy = "lru";         // see eviction_policies()
  std::vector<double> policy_values;  // of its parameters, in their order; empty: standard
  // AdmissionRule::kAlways: forced, as far as the layer's set leaves slots, heaviest first.
  // kIfBetter: an expert passes by the cache unless it is worth more than whom it would displace.
  Admission admission{};

  // Steps that only teach: the policy sees their uses, and of contents kHot the cache starts with
  // the experts that they use most.
  std::vector<SimStep> learn;
  Contents contents = Contents::kHot;
  // A step's tokens ask for their union in one event a layer; see one_by_one().
  std::vector<SimStep> steps;
};

struct ReplayResult {
  CacheStats warm;  // of the measured steps
  CacheStats cold;  // of the others
};

// CHECKs that the policy exists.
ReplayResult replay(const ReplayInput& input);

// The same steps with each token on its own. Belady is a bound only where every set fits into the
// slots that its layer may use: a token's set is top_k experts, a prompt's union can be all of
// them.
std::vector<SimStep> one_by_one(const std::vector<SimStep>& steps);
// The measured steps alone, and the steps before the first of them.
std::vector<SimStep> measured_steps(const std::vector<SimStep>& steps);
std::vector<SimStep> learning_steps(const std::vector<SimStep>& steps);

}  // namespace tandem
