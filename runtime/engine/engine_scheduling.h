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

// What becomes of it, and a line for each setting. cached: whether there are expert slots;
// divisible: whether experts have pieces that can run apart.
SchedulingSettings effective_scheduling(const EngineSettings& settings, bool cached, bool divisible,
                                        std::vector<EffectiveSetting>* lines);

// What the planner is told.
PlannerSettings planner_settings(const SchedulingSettings& effective, bool cached);

}  // namespace tandem
