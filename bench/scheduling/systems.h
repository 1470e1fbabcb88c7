// What is compared: ways of scheduling, each with what its cache holds at the start.
#pragma once

#include <string>
#include <vector>

#include "scheduler/scheduling_settings.h"
#include "scheduler/simulator.h"

namespace tandem::bench {

struct System {
  std::string name;
  SchedulingSettings settings;
  Contents contents = Contents::kHot;
  bool hindsight = false;  // contents are learned on what is measured
};

// A policy file by name, under the name that tables give it.
System from_policy(const std::string& name, const std::string& policy);

// Nobody enters or leaves the cache; misses go where `planner` says.
System fixed_placement(const std::string& name, const std::string& planner, bool hindsight);

// Ours, HybriMoE idealised and published, static placements, and the two bounds.
std::vector<System> speed_systems(const std::string& ours, bool prefill);

}  // namespace tandem::bench
