// What the executor's clocks teach about the machine: by what factors the believed costs are off.
// A layer teaches about the resources that worked in it; what did not work stays as it is.
// Owned by the planner; called by the thread that runs the step loop. Does not allocate.
#pragma once

#include <cstdint>

#include "scheduler/cost_model.h"
#include "scheduler/factor_filter.h"
#include "scheduler/layer_plan.h"

namespace tandem {

LayerCosts corrected(const LayerCosts& believed, const CostFactors& factors);

class OnlineCalibration {
 public:
  explicit OnlineCalibration(const CostModel& believed);

  const CostFactors& factors() const { return factors_; }

  // A layer ended at `end`. cost: with what it was planned, corrected by factors(), its
  // copy_latency 0 where copies were under way before it.
  void learn(const LayerCosts& cost, const LayerPlan& plan, const Clocks& end);
  // Nobody waits for so many bytes, which were copied after what the last learn() saw and have
  // landed at `landed`.
  void learn_copies(int64_t bytes, ModelTime landed);

 private:
  void learn_cpu(const LayerCosts& cost, const LayerPlan& plan, const Clocks& end);
  void learn_gpu(const LayerCosts& cost, const LayerPlan& plan, const Clocks& end);
  void learn_link(const LayerCosts& cost, const LayerPlan& plan, const Clocks& end);

  double copy_us_per_byte_;
  double slow_ratio_;  // link time beside a busy CPU over link time alone
  Clocks end_;         // of the last layer
  CostFactors factors_;
  // A rate of a profile is taken to be 30 % wrong. What sharing leaves of one is a difference of
  // two rates, and so may be wrong by all of it.
  static constexpr double kRate = 0.3;
  static constexpr double kShared = 1;
  FactorFilter<4> cpu_{{kRate, kShared, kRate, kRate}};  // read, read_shared, token, first
  FactorFilter<3> gpu_{{kRate, kRate, kRate}};           // read, token, launch
  FactorFilter<3> link_{{kRate, kShared, kRate}};        // copy, copy_shared, latency
};

}  // namespace tandem
