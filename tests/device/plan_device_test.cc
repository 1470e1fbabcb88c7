// A device that only counts.
#include "runtime/device/plan_device.h"

#include "runtime/device/host_array.h"
#include "tests/device/device_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
TEST_CASE("a planned device counts like the simulated one, by tag and without memory") {
  SimDevice sim(round_machine(), int64_t{1} << 20);
  PlanDevice plan(sim, round_machine());
  CHECK(plan.info().counts_only);
  CHECK(plan.info().vram_bytes == sim.info().vram_bytes);
  const DeviceAddr first = plan.alloc(100, "KV cache");
  const DeviceAddr second = plan.alloc(int64_t{1} << 50, "weights");  // more than there is
  CHECK(plan.alloc(0, "KV cache").at != second.at);
  CHECK(first.at != second.at);
  CHECK(plan.used_bytes() == (int64_t{1} << 50) + 512);
  REQUIRE(plan.device_memory().size() == 2);
  CHECK(plan.device_memory()[0].tag == "KV cache");
  CHECK(plan.device_memory()[0].bytes == 512);
  plan.free(second);
  CHECK(plan.used_bytes() == 512);
  sim.alloc(100, "KV cache");
  sim.alloc(0, "KV cache");
  CHECK(sim.used_bytes() == plan.used_bytes());
}

TEST_CASE("a planned device counts host memory as long as it is held") {
  const CpuDevice cpu(round_machine());
  PlanDevice plan(cpu, round_machine());
  {
    const HostArray<float> array(plan, int64_t{1} << 40, "logits");
    plan.host_buffer(1000, "activations");
    REQUIRE(plan.locked_memory().size() == 1);
    CHECK(plan.locked_memory()[0].bytes == int64_t{4} << 40);
  }
  CHECK(plan.locked_memory().empty());
  REQUIRE(plan.host_memory().size() == 1);
  CHECK(plan.host_memory()[0].bytes == 1000);
  plan.alloc(100, "KV cache");
  CHECK(plan.used_bytes() == 100);  // as CpuDevice has it: to the byte
}

}  // namespace tandem::test
