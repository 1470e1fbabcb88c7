// The parts of the step loop, put together by hand, so that a test can stand between them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/device/cpu_device.h"
#include "runtime/device/sim_device.h"
#include "runtime/engine/hybrid_executor.h"
#include "scheduler/step.h"
#include "tests/engine/engine_testing.h"

namespace tandem::test {

struct StepHarness {
  // slots < 0: the CPU alone.
  StepHarness(const Model& the_model, int32_t slots, int64_t n_batch = 64,
              const Lookahead& lookahead = {}, const SimSettings& sim = {})
      : model(the_model),
        machine(test_machine()),
        pool(2),
        device(make_device(slots, sim)),
        executor(model, *device, pool, CostModel(machine),
                 EngineShape{256, n_batch, n_batch, KvType::kF32, KvType::kF32, lookahead},
                 CacheWish{slots, PoolShape::kShared}),
        cache(executor.cache_shape(),
              make_eviction_policy(
                  "lru", {executor.n_layers(), model.config().routing.n_experts, nullptr, {}})),
        planner(CostModel(machine), expert_costs(model), PlannerSettings{}) {}

  std::unique_ptr<Device> make_device(int32_t slots, const SimSettings& sim) const {
    if (slots < 0) return std::make_unique<CpuDevice>(machine);
    return std::make_unique<SimDevice>(machine, machine.gpu.vram_bytes, sim);
  }

  const Model& model;
  MachineProfile machine;
  ThreadPool pool;
  std::unique_ptr<Device> device;
  HybridExecutor executor;
  ExpertCache cache;
  Planner planner;
  LayerPlan plan;
};

}  // namespace tandem::test
