#include "runtime/device/sim_device.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a stream that was idle can start nothing before the host's present") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  harness.device->host_busy(5000);
  const Clocks clocks = harness.executor.clocks();
  CHECK(clocks.cpu >= 5000);
  CHECK(clocks.gpu >= clocks.cpu);
  CHECK(clocks.link >= clocks.cpu);
}

}  // namespace tandem::test
