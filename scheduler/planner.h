// Decides for one layer which experts run where, so that CPU and GPU finish as early as possible.
// Pure: the same routing, cache state, clocks and costs give the same plan. Costs are what a
// profile says, corrected by what it learns from layers that have run.
#pragma once

#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/cost_model.h"
#include "scheduler/layer_plan.h"
#include "scheduler/online_calibration.h"
#include "scheduler/placement.h"
#include "scheduler/routing.h"

namespace tandem {

struct PlannerSettings {
  PlacementRule rule = place_exact;
  bool use_gpu = true;    // false: everything on the CPU
  bool may_split = true;  // whether one expert may be divided between CPU and GPU
  bool streams = false;   // whether an expert may be fetched without a slot in the cache
  Admission admission{};
  bool calibrate = false;  // whether costs are corrected by what layers took
};

class Planner {
 public:
  // `experts`: cost of one expert of each layer, [n_layers].
  Planner(const CostModel& model, const std::vector<ExpertCost>& experts,
          const PlannerSettings& settings);

  void plan(const RoutingDecision& routing, const ExpertCache& cache, const Clocks& now,
            LayerPlan* plan);
  // The layer planned last has ended; how long it took.
  void learn(const LayerPlan& plan, const Clocks& end);
  // So many bytes have been copied beside demand since the engine's start, the last of them after
  // that layer; now.link: when they have landed.
  void learn_copies(int64_t bytes, const Clocks& now);

 private:
  void classify(const RoutingDecision& routing, const ExpertCache& cache, LayerPlan* plan);
  void sort_by_load(LayerPlan* plan);

  PlannerSettings settings_;
  std::vector<LayerCosts> costs_;  // [n_layers] as the profile says
  OnlineCalibration calibration_;
  int64_t copied_bytes_ = 0;
  LayerProblem problem_;
  LayerProblem scratch_;
};

}  // namespace tandem
