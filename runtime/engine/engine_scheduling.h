// What the engine makes of a scheduling policy: the flags that override it, and what it cannot
// honour.
#pragma once

#include <vector>

#include "runtime/engine/settings.h"
#include "scheduler/planner.h"

namespace tandem {

// The policy with its overrides. ConfigError for a name that is not known, and for a policy that
// must know the future.
SchedulingSettings requested_scheduling(const EngineSettings& settings);

// What an executor can do.
struct Abilities {
  bool cached = false;     // there are expert slots
  bool divisible = false;  // experts have pieces that can run apart
  bool streams = false;    // what is fetched may pass through a buffer
  bool holds_all = false;  // every expert has a slot
  bool guesses = false;    // something is said of later layers' routing
};

// What becomes of it, and a line for each setting.
SchedulingSettings effective_scheduling(const EngineSettings& settings, const Abilities& can,
                                        std::vector<EffectiveSetting>* lines);

// What the planner is told.
PlannerSettings planner_settings(const SchedulingSettings& effective, const Abilities& can);

}  // namespace tandem
