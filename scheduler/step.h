// The step loop: one batch through all layers. The real runtime and the simulator run this same
// code; they differ in the Executor.
#pragma once

#include <span>

#include "cache/expert_cache.h"
#include "scheduler/executor.h"
#include "scheduler/planner.h"
#include "scheduler/prefetcher.h"

namespace tandem {

// `plan` is scratch that keeps its memory from step to step. Returns the executor's logits.
std::span<const float> run_step(const Batch& batch, Executor& exec, Planner& planner,
                                ExpertCache& cache, Prefetcher& prefetcher, LayerPlan& plan);

}  // namespace tandem
