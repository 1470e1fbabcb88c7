#include "bench/scheduling/systems.h"

#include "runtime/config/scheduling_policy.h"

namespace tandem::bench {

System from_policy(const std::string& name, const std::string& policy) {
  const SchedulingSettings settings = load_scheduling_policy(policy);
  return {name, settings, settings.contents, false};
}

System fixed_placement(const std::string& name, const std::string& planner, bool hindsight) {
  System system = from_policy(name, "ktransformers");
  system.settings.planner = planner;
  system.settings.policy = "static";
  system.settings.policy_values.clear();
  system.settings.admission = {AdmissionRule::kIfBetter};
  system.settings.may_split = planner == "exact";
  system.hindsight = hindsight;
  return system;
}

std::vector<System> speed_systems(const std::string& ours, bool prefill) {
  std::vector<System> systems;
  systems.push_back(from_policy("tandem", ours));
  systems.push_back(from_policy("hybrimoe", "hybrimoe"));
  systems.push_back(from_policy("hybrimoe-published", "hybrimoe-published"));
  if (prefill) {
    // As its code starts: experts 0, 1, 2 … of every layer.
    systems.push_back(from_policy("hybrimoe-published-cold", "hybrimoe-published"));
    systems.back().contents = Contents::kFirst;
  }
  systems.push_back(fixed_placement("static", "ktransformers", false));
  systems.push_back(fixed_placement("static-exact", "exact", false));
  systems.push_back(fixed_placement("static-stream", "adapmoe", false));
  systems.push_back(fixed_placement("hindsight", "ktransformers", true));
  systems.push_back(fixed_placement("hindsight-exact", "exact", true));
  systems.push_back(from_policy("clairvoyant", "clairvoyant"));
  systems.push_back(from_policy("bound", ours));
  systems.back().contents = Contents::kEverything;
  systems.back().settings.prefetcher = "none";
  return systems;
}

}  // namespace tandem::bench
