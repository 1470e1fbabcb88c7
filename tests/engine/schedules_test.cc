// Whole models on CUDA kernels (emulated), when work takes effect early, late or in between, and
// when a call to the device fails: the same tokens, or one error that says so.
#include <array>
#include <set>

#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr uint64_t kSeeds = 8;
constexpr uint64_t kEveryCall = 7;
#else
constexpr uint64_t kSeeds = 50;
constexpr uint64_t kEveryCall = 1;
#endif

EngineSettings scheduled(int32_t slots, SimSchedule schedule, uint64_t seed) {
  EngineSettings settings = cuda_settings(slots);
  settings.sim.schedule = schedule;
  settings.sim.seed = seed;
  return settings;
}

// A model of two small layers, and what it gives when nothing goes wrong.
struct Small {
  Small()
      : json(read_json(kFamilies + "qwen3moe-q8_0-yarn.json")),
        model(Model::load(GgufFile::open(kFamilies + json["model"].get<std::string>()))),
        prompt(json["prompt"].get<std::vector<int32_t>>()) {
    prompt.resize(std::min<size_t>(prompt.size(), 5));
  }

  RunOutcome run(const EngineSettings& settings) const {
    return run_outcome(model, settings, prompt, 3);
  }

  nlohmann::json json;
  Model model;
  std::vector<int32_t> prompt;
};

}  // namespace

TEST_CASE("the demo model's golden tokens do not depend on when work takes effect") {
  const nlohmann::json golden = read_json(TANDEM_SOURCE_DIR "/demo/golden.json")["Q8_0"];
  const auto prompt = golden["prompt_ids"].get<std::vector<int32_t>>();
  auto tokens = golden["greedy"].get<std::vector<int32_t>>();
  tokens.resize(4);
  Model model = Model::load(GgufFile::open(kDemoModel));
  const auto check = [&](const EngineSettings& settings) {
    Engine engine(model, test_machine(), settings);
    CHECK(greedy(engine, prompt, static_cast<int>(tokens.size())) == tokens);
  };
  check(scheduled(40, SimSchedule::kLate, 1));
  for (const int32_t slots : {3, 20, 80}) check(scheduled(slots, SimSchedule::kTimed, 1));
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    INFO("seed " << seed);
    // Packed on the way to the GPU, then in host memory.
    if (seed == kSeeds / 2) model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
    check(scheduled(std::array{3, 20, 80}[seed % 3], SimSchedule::kRandom, seed));
  }
}

TEST_CASE("a call to the device that fails ends the run with an error, never with other tokens") {
  const Small small;
  for (const SimSchedule schedule : {SimSchedule::kAtOnce, SimSchedule::kLate}) {
    const EngineSettings settings = scheduled(6, schedule, 1);
    const RunOutcome good = small.run(settings);
    REQUIRE(good.error.empty());
    REQUIRE(good.calls > 200);
    for (const SimFault fault : {SimFault::kAtOnce, SimFault::kLater}) {
      std::set<std::string> errors;
      int survived = 0;
      for (uint64_t call = 0; call < good.calls; call += kEveryCall) {
        EngineSettings failing = settings;
        failing.sim.fault = fault;
        failing.sim.fault_call = call;
        const RunOutcome outcome = small.run(failing);
        INFO("call " << call << " of " << good.calls);
        if (outcome.error.empty()) {  // memory of slots or buffers: there are fewer, or none
          CHECK(outcome.tokens == good.tokens);
          ++survived;
          continue;
        }
        CHECK(outcome.tokens.empty());
        errors.insert(outcome.error);
      }
      CHECK(survived <= 2);
      CHECK(errors.size() > 1);
    }
  }
}

}  // namespace tandem::test
