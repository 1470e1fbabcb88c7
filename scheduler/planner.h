// Decides for one layer which experts run where, so that CPU and GPU finish as early as possible.
// Pure: the same routing, cache state and clocks give the same plan.
#pragma once

#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/cost_model.h"
#include "scheduler/layer_plan.h"
#include "scheduler/routing.h"

namespace tandem {

struct PlannerSettings {
  bool use_gpu = true;          // false: everything on the CPU, nothing admitted
  int32_t admit_per_layer = 1;  // misses that ran on the CPU and enter the cache afterwards
};

class Planner {
 public:
  // `experts`: cost of one expert of each layer, [n_layers].
  Planner(CostModel model, std::vector<ExpertCost> experts, const PlannerSettings& settings);

  // Resident experts run on the GPU. Of the absent ones the heaviest n are fetched and the rest
  // run on the CPU, with the n that gives the smallest modelled makespan (fewest bytes on a tie).
  void plan(const RoutingDecision& routing, const ExpertCache& cache, const Clocks& now,
            LayerPlan* plan);

 private:
  void classify(const RoutingDecision& routing, const ExpertCache& cache, LayerPlan* plan);
  int32_t best_fetch_count(const LayerPlan& plan, int32_t room, const Clocks& now) const;
  // The modelled end of the layer when the first n absent experts are fetched.
  Clocks finish(const LayerPlan& plan, int32_t n_fetch, const Clocks& now) const;
  void admit(int32_t room, LayerPlan* plan) const;

  CostModel model_;
  std::vector<ExpertCost> experts_;
  PlannerSettings settings_;
};

}  // namespace tandem
