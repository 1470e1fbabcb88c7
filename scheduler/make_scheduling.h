// From scheduling settings to the parts that carry them out: what the engine and the simulator
// have in common.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"
#include "cache/expert_cache.h"
#include "scheduler/cost_model.h"
#include "scheduler/future.h"
#include "scheduler/prefetcher.h"
#include "scheduler/scheduling_settings.h"

namespace tandem {

// Whether the eviction policy or the prefetcher knows what is used next.
bool needs_future(const SchedulingSettings& settings);
// Whether a part of it, the tokens that are there already, is not enough.
bool needs_whole_future(const SchedulingSettings& settings);

// How many layers ahead the settings want gates to be reused; 0: not at all.
int32_t gate_reuse_distance(const SchedulingSettings& settings);
// The same of any lookahead that comes with the routing: of gates or of tables.
int32_t lookahead_distance(const SchedulingSettings& settings);

// CHECKs that the names exist. future: outlives the result; null where nothing needs it.
std::unique_ptr<EvictionPolicy> make_policy(const SchedulingSettings& settings,
                                            const CacheShape& shape, const FutureUses* future);
std::unique_ptr<Prefetcher> make_prefetcher(const SchedulingSettings& settings,
                                            const CostModel& model,
                                            const std::vector<ExpertCost>& experts,
                                            const ExpertCache& cache, const Future* future);

}  // namespace tandem
