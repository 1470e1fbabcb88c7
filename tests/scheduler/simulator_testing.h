// A small model, its synthetic routes, and a machine of round numbers: what tests of the simulator
// start from.
#pragma once

#include "scheduler/simulator.h"
#include "scheduler/synthetic_trace.h"
#include "tests/scheduler/scheduler_testing.h"

namespace tandem::test {

inline ModelShape small_shape() {
  ModelShape shape;
  shape.name = "small";
  shape.n_layers = 6;
  shape.n_experts = 16;
  shape.top_k = 4;
  shape.expert_bytes.assign(6, 4'000'000);
  shape.expert_params = 7'000'000;
  shape.split_pieces = 4;
  shape.attention = {8'000'000, 8'000'000};
  shape.other = {40'000'000, 40'000'000};
  return shape;
}

inline Trace small_trace(uint64_t seed = 3) {
  SyntheticTraceSettings settings;
  settings.n_layers = 6;
  settings.n_experts = 16;
  settings.top_k = 4;
  settings.n_sequences = 4;
  settings.n_prompt = 16;
  settings.n_decode = 60;
  settings.seed = seed;
  return make_synthetic_trace(settings);
}

struct Fixture {
  Trace trace = small_trace();
  ModelShape shape = small_shape();
  MachineProfile machine = round_machine();
  SimInput input;
  SchedulingSettings ours;

  explicit Fixture(double share = 0.25) {
    machine.layer_overhead_us = 50;
    input.trace = &trace;
    input.shape = &shape;
    input.machine = &machine;
    input.steps = decode_steps(trace);
    input.capacity_bytes = static_cast<int64_t>(share * 6 * 16 * 4'000'000);
    input.lookahead = {true, 0.85, 0.04, 1};
  }
  SchedulingSettings without_prefetch() const {
    SchedulingSettings settings = ours;
    settings.prefetcher = "none";
    return settings;
  }
  SchedulingSettings clairvoyant() const {
    SchedulingSettings settings = ours;
    settings.policy = "belady";
    settings.prefetcher = "clairvoyant";
    return settings;
  }
  SchedulingSettings cpu_only() const {
    SchedulingSettings settings = without_prefetch();
    settings.planner = "cpu";
    return settings;
  }
};

}  // namespace tandem::test
