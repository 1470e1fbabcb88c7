// What is known of routes before the layers run is acted on.
#include <algorithm>
#include <array>

#include "scheduler/make_scheduling.h"
#include "scheduler/planner.h"
#include "scheduler/sim_executor.h"
#include "scheduler/simulator.h"
#include "scheduler/step.h"
#include "scheduler/synthetic_trace.h"
#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// One expert a token, the same in all layers, as a router before the layers chooses.
Trace decoupled_trace(int32_t n_layers, int32_t n_experts) {
  SyntheticTraceSettings settings;
  settings.n_layers = 1;
  settings.n_experts = n_experts;
  settings.top_k = 1;
  settings.n_sequences = 6;
  settings.n_prompt = 8;
  settings.n_decode = 120;
  Trace one = make_synthetic_trace(settings);
  Trace trace = one;
  trace.header.n_layers = n_layers;
  trace.header.n_ahead = 0;
  trace.predicted.clear();
  trace.ids.clear();
  trace.weights.clear();
  const auto n = static_cast<size_t>(one.header.n_ranks);
  for (size_t t = 0; t < one.ids.size() / n; ++t) {
    for (int32_t l = 0; l < n_layers; ++l) {
      trace.ids.insert(trace.ids.end(), one.ids.begin() + static_cast<std::ptrdiff_t>(t * n),
                       one.ids.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
      trace.weights.insert(trace.weights.end(),
                           one.weights.begin() + static_cast<std::ptrdiff_t>(t * n),
                           one.weights.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
    }
  }
  return trace;
}

}  // namespace

// With fewer slots it may fail where the only slot that could go is being written.
TEST_CASE("what is known before the layers is there in time wherever the link can bring it") {
  const int32_t kLayers = 6;
  const int32_t kExperts = 8;
  const Trace trace = decoupled_trace(kLayers, kExperts);
  ModelShape shape;
  shape.name = "small";
  shape.n_layers = kLayers;
  shape.expert_params = 7'000'000;
  shape.split_pieces = 4;
  shape.attention = {8'000'000, 8'000'000};
  shape.other = {40'000'000, 40'000'000};
  shape.n_experts = kExperts;
  shape.top_k = 1;
  shape.expert_bytes = {4'000'000, 8'000'000, 2'000'000, 8'000'000, 2'000'000, 4'000'000};
  for (const double link_gbps : {4.0, 10.0, 20.0, 60.0}) {
    INFO("link " << link_gbps << " GB/s");
    MachineProfile machine = round_machine();
    machine.link.h2d_gbps = link_gbps;
    machine.dram_gbps = 200;  // the CPU takes nothing from the link
    machine.layer_overhead_us = 300;
    SchedulingSettings settings;
    settings.prefetch.ahead = kLayers - 1;
    SimExecutor exec(trace, shape, machine, {false, 1, 0, 1, true}, 1);
    const CostModel costs(machine);
    const std::vector<ExpertCost> experts = expert_costs(shape);
    const CacheShape cache_shape{
        kLayers, kExperts, shape.split_pieces, shape.expert_bytes, 72'000'000, PoolShape::kShared};
    ExpertCache cache(cache_shape, make_policy(settings, cache_shape, nullptr));
    Planner planner(costs, experts, {placement_rule("exact"), true, true, true, {}, false});
    const auto prefetcher = make_prefetcher(settings, costs, experts, cache, nullptr);
    LayerPlan plan;
    int64_t fitting = 0;
    int64_t not_fitting = 0;
    int64_t steps = 0;
    for (const SimStep& step : decode_steps(trace)) {
      if (step.rows.size() > 1) continue;  // a prompt
      exec.begin_step({step.rows, step.first_pos, 1});
      std::array<double, kLayers> missing_us{};  // from the first layer on
      double from = 0;
      ++steps;
      for (LayerId layer{0}; layer.value < kLayers; ++layer.value) {
        const RoutingDecision& routing = exec.route(layer);
        prefetcher->observe(routing, cache);
        planner.plan(routing, cache, exec.clocks(), &plan);
        const double now = exec.clocks().cpu;
        if (layer.value > 0) {
          const bool fits = missing_us[static_cast<size_t>(layer.value)] <= now - from;
          const PlannedExpert& used = plan.experts.front();
          const bool there = used.present == shape.split_pieces && used.ready <= now + 1e-6;
          ++(fits ? fitting : not_fitting);
          // The first tokens teach how long the gaps are.
          if (fits && steps > 8) CHECK(there);
        }
        commit(&plan, &cache);
        exec.run(plan);
        if (layer.value == 0) {
          from = std::max(exec.clocks().link, now);
          double sum = 0;
          for (int32_t l = 1; l < kLayers; ++l) {
            const SlotId slot = cache.find({LayerId{l}, routing.ids.front()});
            const int32_t missing = shape.split_pieces - (slot.valid() ? cache.pieces(slot) : 0);
            sum += missing * costs.h2d_us(shape.expert_bytes[static_cast<size_t>(l)]) /
                       shape.split_pieces +
                   (missing > 0 ? machine.link.latency_us : 0);
            missing_us[static_cast<size_t>(l)] = sum;
          }
        }
        prefetcher->prefetch(plan, cache, exec);
      }
      exec.end_step();
    }
    CHECK(fitting > 0);
    CHECK((not_fitting > 0 || link_gbps > 10));
  }
}

}  // namespace tandem::test
