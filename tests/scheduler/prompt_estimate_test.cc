// What a prompt's token takes, against sums by hand.
#include "scheduler/prompt_estimate.h"

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Two layers of four experts, two a token; an expert is read in 1 us by the GPU and copied in 10.
ModelShape small_shape() {
  ModelShape shape;
  shape.n_layers = 2;
  shape.n_experts = 4;
  shape.top_k = 2;
  shape.expert_bytes = {100000, 100000};
  shape.expert_params = 50000;
  return shape;
}

MachineProfile slow_cpu() {
  MachineProfile machine;
  machine.cpu.read_gbps = 0.001;
  machine.cpu.gflops = 0.001;
  machine.gpu.read_gbps = 100;
  machine.gpu.gflops = 1e6;
  machine.gpu.launch_us = 0;
  machine.link.h2d_gbps = 10;
  machine.link.latency_us = 0;
  machine.dram_gbps = 1000;
  machine.layer_overhead_us = 0;
  return machine;
}

}  // namespace

TEST_CASE("where everything is fetched, a prompt's token takes its part of all copies") {
  const CostModel costs(slow_cpu());
  for (const int64_t n : {8, 64, 512}) {
    // Each of eight experts is copied, the last of a layer then read.
    const double us = 2 * (4 * 10.0 + 1);
    INFO(n);
    CHECK(prompt_token_us(small_shape(), costs, {0, 4}, n) ==
          Approx(us / static_cast<double>(n)).epsilon(0.001));
  }
}

TEST_CASE(
    "where everything is there, a prompt's token takes reading all experts or its arithmetic") {
  MachineProfile machine = slow_cpu();
  const double reading = 2 * 4 * 1.0;
  CHECK(prompt_token_us(small_shape(), CostModel(machine), {1, 0}, 64) == Approx(reading / 64));
  machine.gpu.gflops = 1;  // 100 us an expert and token
  CHECK(prompt_token_us(small_shape(), CostModel(machine), {1, 0}, 64) == Approx(2 * 2 * 100.0));
}

TEST_CASE("dense parts are read once a step, and layers have their overhead") {
  MachineProfile machine = slow_cpu();
  machine.layer_overhead_us = 3;
  machine.gpu.gflops = 1e5;
  ModelShape shape = small_shape();
  shape.attention = {200000, 1};      // 2 us
  shape.other = {500000, 250000000};  // 5 us, and as long for one token's arithmetic
  MachineProfile plain = machine;
  plain.layer_overhead_us = 0;
  const double without = prompt_token_us(small_shape(), CostModel(plain), {1, 0}, 10);
  CHECK(prompt_token_us(shape, CostModel(machine), {1, 0}, 10) ==
        Approx(without + (2 * (3 + 2) + 5) / 10.0));
}

}  // namespace tandem::test
