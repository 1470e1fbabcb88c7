// The demo model on emulated CUDA kernels, each call to the device failing once: its tokens, or one
// error. schedules_test.cc does the same with a smaller model, each way of failing at each call.
#include "runtime/device/sim_device.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr uint64_t kEveryCall = 31;
#else
constexpr uint64_t kEveryCall = 1;
#endif

struct Outcome {
  std::vector<int32_t> tokens{};
  std::string error{};
  uint64_t calls = 0;
};

Outcome run(const Model& model, std::span<const int32_t> prompt, const EngineSettings& settings) {
  Outcome outcome;
  try {
    Engine engine(model, test_machine(), settings);
    outcome.tokens = greedy(engine, prompt, 2);
    outcome.calls = dynamic_cast<const SimDevice&>(engine.device()).calls();
  } catch (const DeviceError& error) {
    outcome.error = error.what();
  } catch (const MemoryError& error) {
    outcome.error = error.what();
  }
  return outcome;
}

}  // namespace

TEST_CASE("the demo model gives its tokens or one error, whichever call to the device fails") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> prompt{4093};
  EngineSettings settings = cuda_settings(20);
  settings.sim.schedule = SimSchedule::kLate;
  const Outcome good = run(model, prompt, settings);
  REQUIRE(good.error.empty());
  REQUIRE(good.calls > 300);
  int survived = 0;
  for (uint64_t call = 0; call < good.calls; call += kEveryCall) {
    EngineSettings failing = settings;
    failing.sim.fault = call % 2 == 0 ? SimFault::kAtOnce : SimFault::kLater;
    failing.sim.fault_call = call;
    const Outcome outcome = run(model, prompt, failing);
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

}  // namespace tandem::test
