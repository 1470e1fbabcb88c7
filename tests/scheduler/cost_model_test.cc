#include "scheduler/cost_model.h"

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

const CostModel kModel(round_machine());

TEST_CASE("on the CPU an operation takes as long as reading its weights when that is longer") {
  CHECK(kModel.cpu_us(4'000'000, 1'000'000) == Approx(100.0));  // 4 MB at 40 GB/s
}

TEST_CASE("on the CPU an operation takes as long as its arithmetic when that is longer") {
  CHECK(kModel.cpu_us(4'000'000, 50'000'000) == Approx(500.0));  // 50 MFLOP at 100 GFLOP/s
}

TEST_CASE("on the GPU the launch is added to the longer of reading and arithmetic") {
  CHECK(kModel.gpu_us(4'000'000, 1'000'000) == Approx(4.0 + 10.0));    // 4 MB at 400 GB/s
  CHECK(kModel.gpu_us(4'000'000, 500'000'000) == Approx(4.0 + 50.0));  // at 10 TFLOP/s
  CHECK(kModel.gpu_us(0, 0) == Approx(4.0));
}

TEST_CASE("a copy takes its bytes at the rate of its direction") {
  CHECK(kModel.h2d_us(2'000'000) == Approx(100.0));  // 2 MB at 20 GB/s
  CHECK(kModel.d2h_us(2'000'000) == Approx(200.0));  // 2 MB at 10 GB/s
  CHECK(kModel.h2d_us(0) == 0);
}

TEST_CASE("an expert reads its weights once, however many tokens it has") {
  const LayerCosts cost = kModel.layer({4'000'000, 2'000'000, 1});
  CHECK(cost.cpu(1) == Approx(100.0));   // 20 us of arithmetic
  CHECK(cost.cpu(5) == Approx(100.0));   // 100 us of arithmetic
  CHECK(cost.cpu(10) == Approx(200.0));  // arithmetic rules
  CHECK(cost.gpu(1) == Approx(10.0));
  CHECK(cost.gpu(50) == Approx(10.0));  // 10 us of arithmetic
  CHECK(cost.gpu(500) == Approx(100.0));
  CHECK(cost.copy == Approx(200.0));
  CHECK(cost.gpu_launch == 4);
  CHECK(cost.copy_latency == 5);
  CHECK(cost.cpu_first == 8);
}

TEST_CASE("beside a copying link the CPU reads at what memory has left") {
  // Memory gives 50 GB/s, the link takes 20: 30 are left of the CPU's 40.
  CHECK(kModel.cpu_gbps_beside_link() == Approx(30.0));
  CHECK(kModel.link_gbps_beside_cpu() == Approx(10.0));
  const LayerCosts cost = kModel.layer({4'000'000, 2'000'000, 1});
  CHECK(cost.cpu_shared(1) == Approx(4000.0 / 30));
  CHECK(cost.cpu_shared(10) == Approx(200.0));  // arithmetic does not slow down
}

TEST_CASE("with memory to spare neither slows the other, and without any neither starves") {
  MachineProfile machine = round_machine();
  machine.dram_gbps = 100;
  CHECK(CostModel(machine).cpu_gbps_beside_link() == 40);
  CHECK(CostModel(machine).link_gbps_beside_cpu() == 20);
  machine.dram_gbps = 10;
  CHECK(CostModel(machine).cpu_gbps_beside_link() == Approx(2.0));
  CHECK(CostModel(machine).link_gbps_beside_cpu() == Approx(1.0));
}

TEST_CASE("costs of experts with billions of operations don't overflow") {
  const LayerCosts cost = kModel.layer({1'000'000'000, 3'000'000'000, 1});
  CHECK(cost.cpu(1'000'000) == Approx(3e10));  // 3e15 at 1e11 a second
}

TEST_CASE("the model keeps the profile that it was made with") {
  CHECK(kModel.profile().name == "round");
  CHECK(kModel.profile().cpu.first_expert_us == 8.0);
}

}  // namespace
}  // namespace tandem::test
