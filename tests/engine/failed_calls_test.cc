// The demo model on emulated CUDA kernels, each call to the device failing once: its tokens, or one
// error. schedules_test.cc does the same with a smaller model, each way of failing at each call.
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr uint64_t kEveryCall = 31;
#else
constexpr uint64_t kEveryCall = 1;
#endif

// `fault` at every second call, from the first on or from the second: between two cases, that may
// run side by side, each call fails once.
void check_failures(SimFault fault, uint64_t first) {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> prompt{4093};
  EngineSettings settings = cuda_settings(20);
  settings.sim.schedule = SimSchedule::kLate;
  const RunOutcome good = run_outcome(model, settings, prompt, 2);
  REQUIRE(good.error.empty());
  REQUIRE(good.calls > 300);
  int survived = 0;
  for (uint64_t call = first; call < good.calls; call += 2 * kEveryCall) {
    EngineSettings failing = settings;
    failing.sim.fault = fault;
    failing.sim.fault_call = call;
    const RunOutcome outcome = run_outcome(model, failing, prompt, 2);
    INFO("call " << call << " of " << good.calls);
    if (outcome.error.empty()) {  // memory of slots or buffers: there are fewer, or none
      CHECK(outcome.tokens == good.tokens);
      ++survived;
    } else {
      CHECK(outcome.tokens.empty());
    }
  }
  CHECK(survived <= 2);
}

}  // namespace

TEST_CASE("the demo model gives its tokens or one error, whichever call to the device fails") {
  check_failures(SimFault::kAtOnce, 0);
}

TEST_CASE("the demo model gives its tokens or one error, whichever call's work is not done") {
  check_failures(SimFault::kLater, 1);
}

}  // namespace tandem::test
