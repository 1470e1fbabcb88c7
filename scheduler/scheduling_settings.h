// How experts are scheduled: what configs/policies/*.toml say. Names are checked by who reads them.
#pragma once

#include <string>
#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/first_contents.h"
#include "scheduler/impact_prefetcher.h"

namespace tandem {

struct SchedulingSettings {
  std::string name = "tandem";
  std::string description;
  std::string policy = "ewma";        // of eviction; see eviction_policies()
  std::vector<double> policy_values;  // of its parameters, in their order; empty: standard
  PoolShape pool = PoolShape::kShared;
  Contents contents = Contents::kHot;             // of the cache at the start
  std::string planner = "exact";                  // see placement_rule_names()
  Admission admission{AdmissionRule::kIfBetter};  // of what is fetched on demand
  bool may_split = true;                          // an expert between CPU and GPU
  bool calibrate = true;                          // costs, by what layers took
  std::string predictor = "gate-reuse";           // see predictor_names()
  std::string prefetcher = "impact";              // none, impact, hybrimoe, missed, clairvoyant
  PrefetchSettings prefetch;
};

}  // namespace tandem
