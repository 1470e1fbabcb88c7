// The parts of the step loop, put together by hand, so that a test can stand between them.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "runtime/device/cpu_device.h"
#include "runtime/device/sim_device.h"
#include "runtime/engine/hybrid_executor.h"
#include "scheduler/layer_plan.h"
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
                 EngineShape{std::max<int64_t>(256, n_batch + 40), n_batch, n_batch, KvType::kF32,
                             KvType::kF32, lookahead},
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

// What of an expert is copied before its layer is planned, and what the GPU then computes, in
// pieces.
struct Division {
  int32_t present = 0;
  int32_t gpu = 0;
};

// One step; in `layer` (-1: in each) the plan's i-th expert is divided by the i-th division,
// repeated as often as needed. Other layers run on the CPU. Returns the step's logits.
inline std::vector<float> run_divided(StepHarness* harness, const Batch& batch, int32_t layer,
                                      const std::vector<Division>& divisions) {
  HybridExecutor& exec = harness->executor;
  ExpertCache& cache = harness->cache;
  exec.begin_step(batch);
  for (LayerId at{0}; at.value < exec.n_layers(); ++at.value) {
    const RoutingDecision& routing = exec.route(at);
    LayerPlan plan;
    plan.pieces = cache.shape().pieces;
    plan.streams = exec.streams();
    for (const ExpertLoad& load : routing.loads) {
      const auto i = static_cast<int32_t>(plan.experts.size());
      const bool divided = layer < 0 || at.value == layer;
      const Division d =
          divided ? divisions[static_cast<size_t>(i) % divisions.size()] : Division{};
      PlannedExpert expert{load.expert, load.first, load.count, {}, d.present, 0, d.gpu};
      if (d.present > 0) {
        const ExpertKey key{at, load.expert};
        expert.slot = cache.offer(at).slot;
        cache.insert(key, expert.slot);
        cache.set_pieces(expert.slot, d.present, 0);
        // One piece after the other, as a prefetcher sends them.
        for (int32_t p = 0; p < d.present; ++p) {
          const CopySlice slice{key, expert.slot, p, 1};
          ModelTime landed = 0;
          exec.prefetch({&slice, 1}, {&landed, 1});
        }
      }
      plan.experts.push_back(expert);
      plan.used.push_back(load.expert);
      if (d.gpu > d.present) plan.fetches.push_back(i);
    }
    plan.use.layer = at;
    plan.use.used = plan.used;
    commit(&plan, &cache);
    exec.run(plan);
  }
  const std::span<const float> logits = exec.end_step();
  return {logits.begin(), logits.end()};
}

}  // namespace tandem::test
