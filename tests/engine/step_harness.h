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
      : StepHarness(the_model, slots, make_device(slots, sim), n_batch, lookahead) {}
  StepHarness(const Model& the_model, int32_t slots, std::unique_ptr<Device> the_device,
              int64_t n_batch = 64, const Lookahead& lookahead = {})
      : model(the_model),
        machine(test_machine()),
        pool(2),
        device(std::move(the_device)),
        executor(model, *device, pool, CostModel(machine),
                 EngineShape{256, n_batch, n_batch, KvType::kF32, KvType::kF32, lookahead},
                 CacheWish{slots, PoolShape::kShared}),
        cache(executor.cache_shape(),
              make_eviction_policy(
                  "lru", {executor.n_layers(), model.config().routing.n_experts, nullptr, {}})),
        planner(CostModel(machine), expert_costs(model), PlannerSettings{}) {}

  static std::unique_ptr<Device> make_device(int32_t slots, const SimSettings& sim) {
    const MachineProfile machine = test_machine();
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
