// The order of things and what is given back: rates are a real GPU's to give.
#include "runtime/calibrate/measure_sharing.h"

#include "runtime/error.h"
#include "tests/calibrate/calibrate_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int64_t kRegion = 64 << 20;

SharedRates share(Device& device) {
  ThreadPool pool(2);
  CpuWork work(pool, kRegion);
  SharingSettings settings;
  settings.repeats = 2;
  settings.seconds = 0.005;
  settings.warm_up_seconds = 0.001;
  settings.copy_bytes = 1 << 20;
  return measure_sharing(device, work, 5, settings, nobody_looks);
}

}  // namespace

TEST_CASE("what CPU and link share is the sum of what both had") {
  FakeCuda fake;
  {
    const auto device = open_fake();
    const SharedRates rates = share(*device);
    CHECK(rates.cpu_gbps.median > 0);
    CHECK(rates.link_gbps.median >= 0);
    CHECK(rates.dram_gbps.n == 2);
    CHECK(rates.dram_gbps.median >= rates.cpu_gbps.low + rates.link_gbps.low);
    CHECK(rates.dram_gbps.median <= rates.cpu_gbps.high + rates.link_gbps.high);
    CHECK(device->used_bytes() == 0);
  }
  CHECK(fake.misuse == std::vector<std::string>{});
  CHECK(fake.alive() == 0);
}

TEST_CASE("a device that fails beside the CPU's experts ends the measurement") {
  FakeCuda fake;
  {
    const auto device = open_fake();
    fake.fail_call = fake.calls + 8;
    CHECK_THROWS_AS(share(*device), Error);
  }
  CHECK(fake.alive() == 0);
}

}  // namespace tandem::test
