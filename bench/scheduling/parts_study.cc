// What each part of the scheduling is worth alone: ours, and ours without it.
#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

#include "bench/scheduling/cells.h"

namespace tandem::bench {
namespace {

System without(const std::string& part, const std::string& ours,
               const std::function<void(SchedulingSettings*)>& change) {
  System system = from_policy(part, ours);
  change(&system.settings);
  return system;
}

void evict_by(SchedulingSettings* settings, const char* policy) {
  settings->policy = policy;
  settings->policy_values.clear();
}

std::vector<System> all_systems(const std::string& ours) {
  using Settings = SchedulingSettings;
  std::vector<System> systems{from_policy("tandem", ours)};
  const auto add = [&](const char* part, const std::function<void(Settings*)>& change) {
    systems.push_back(without(part, ours, change));
  };
  add("link idle across layers", [](Settings* s) { s->prefetcher = "none"; });
  add("no prediction, fills only", [](Settings* s) { s->predictor = "none"; });
  add("no fills", [](Settings* s) { s->prefetch.fills = 0; });
  add("one layer ahead", [](Settings* s) { s->prefetch.ahead = 1; });
  add("everything admitted", [](Settings* s) { s->admission = {AdmissionRule::kAlways}; });
  add("rates instead of learning", [](Settings* s) {
    const SchedulingSettings rates = from_policy("", "ewma").settings;
    s->policy = rates.policy;
    s->policy_values = rates.policy_values;
  });
  add("mrs evicts", [](Settings* s) { evict_by(s, "mrs"); });
  add("lru evicts", [](Settings* s) { evict_by(s, "lru"); });
  add("per-layer pool", [](Settings* s) { s->pool = PoolShape::kPerLayer; });
  add("no splits", [](Settings* s) { s->may_split = false; });
  add("greedy placement", [](Settings* s) { s->planner = "hybrimoe"; });
  add("misses on the CPU", [](Settings* s) { s->planner = "ktransformers"; });
  return systems;
}

}  // namespace

void parts_study(const StudyOptions& options) {
  const std::vector<System> systems = all_systems(options.ours);
  const RatioTable table = run_cells(options, systems);
  std::vector<std::string> groups{"all"};
  for (const std::string& machine : options.grid.machines) groups.push_back(machine);
  fmt::print("\nSpeed without a part, over that of all parts; geometric means; modelled\n\n| ");
  for (const std::string& group : groups) fmt::print("| {} ", group);
  fmt::print("|\n|---|");
  for (size_t i = 0; i < groups.size(); ++i) fmt::print("---|");
  for (size_t i = 1; i < systems.size(); ++i) {
    fmt::print("\n| {} ", systems[i].name);
    for (const std::string& group : groups) {
      fmt::print("| {:.3f} ", table.mean(group, systems[i].name, "tandem"));
    }
    fmt::print("|");
  }
  fmt::print("\n");
}

}  // namespace tandem::bench
