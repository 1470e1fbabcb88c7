// Decides for one layer which experts run where, so that CPU and GPU finish as early as possible.
// Pure: the same routing, cache state and clocks give the same plan.
#pragma once

#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/cost_model.h"
#include "scheduler/layer_plan.h"
#include "scheduler/placement.h"
#include "scheduler/routing.h"

namespace tandem {

struct PlannerSettings {
  PlacementRule rule = place_exact;
  bool use_gpu = true;    // false: everything on the CPU
  bool may_split = true;  // whether one expert may be divided between CPU and GPU
  bool streams = false;   // whether an expert may be fetched without a slot in the cache
  Admission admission{};
};

class Planner {
 public:
  // `experts`: cost of one expert of each layer, [n_layers].
  Planner(const CostModel& model, const std::vector<ExpertCost>& experts,
          const PlannerSettings& settings);

  void plan(const RoutingDecision& routing, const ExpertCache& cache, const Clocks& now,
            LayerPlan* plan);
  const LayerCosts& costs(LayerId layer) const { return costs_[static_cast<size_t>(layer.value)]; }

 private:
  void classify(const RoutingDecision& routing, const ExpertCache& cache, LayerPlan* plan);
  void sort_by_load(LayerPlan* plan);

  PlannerSettings settings_;
  std::vector<LayerCosts> costs_;  // [n_layers]
  LayerProblem problem_;
  LayerProblem scratch_;
};

}  // namespace tandem
