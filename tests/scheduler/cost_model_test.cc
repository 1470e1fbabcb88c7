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

TEST_CASE("a copy takes the link's latency and its bytes at the rate of its direction") {
  CHECK(kModel.h2d_us(2'000'000) == Approx(5.0 + 100.0));  // 2 MB at 20 GB/s
  CHECK(kModel.d2h_us(2'000'000) == Approx(5.0 + 200.0));  // 2 MB at 10 GB/s
  CHECK(kModel.h2d_us(0) == Approx(5.0));
}

TEST_CASE("a fetch pays the latency once for each of its copies and the bytes once") {
  CHECK(kModel.fetch_us({6'000'000, 0, 3}) == Approx(3 * 5.0 + 300.0));
  CHECK(kModel.fetch_us({6'000'000, 0, 1}) == Approx(5.0 + 300.0));
}

TEST_CASE("an expert reads its weights once, however many tokens it has") {
  const ExpertCost expert{4'000'000, 2'000'000, 3};
  CHECK(kModel.cpu_expert_us(expert, 1) == Approx(100.0));   // 20 us of arithmetic
  CHECK(kModel.cpu_expert_us(expert, 5) == Approx(100.0));   // 100 us of arithmetic
  CHECK(kModel.cpu_expert_us(expert, 10) == Approx(200.0));  // arithmetic rules
  CHECK(kModel.gpu_expert_us(expert, 1) == Approx(14.0));
  CHECK(kModel.gpu_expert_us(expert, 50) == Approx(14.0));  // 10 us of arithmetic
  CHECK(kModel.gpu_expert_us(expert, 500) == Approx(104.0));
}

TEST_CASE("costs of experts with billions of operations don't overflow") {
  const ExpertCost expert{1'000'000'000, 3'000'000'000, 3};
  CHECK(kModel.cpu_expert_us(expert, 1'000'000) == Approx(3e10));  // 3e15 at 1e11 a second
}

TEST_CASE("the model keeps the profile that it was made with") {
  CHECK(kModel.profile().name == "round");
  CHECK(kModel.profile().cpu.first_expert_us == 8.0);
}

}  // namespace
}  // namespace tandem::test
