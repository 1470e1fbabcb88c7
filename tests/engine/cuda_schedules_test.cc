// Whole models on CudaDevice, on a CUDA runtime of the tests' (fake_cuda.h) that does its work
// early, late or in between: the same tokens each time.
#include <array>

#include "runtime/device/cuda_device.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/fake_cuda.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr uint64_t kLate = 2;
constexpr uint64_t kRandom = 1;
#else
constexpr uint64_t kLate = 4;
constexpr uint64_t kRandom = 25;
#endif

constexpr std::array kKinds{HandOverKind::kMemoryOperation, HandOverKind::kHostFunction,
                            HandOverKind::kSpinKernel, HandOverKind::kHostWaits};

std::unique_ptr<CudaDevice> open(HandOverKind kind) {
  return std::make_unique<CudaDevice>(test_machine(), FakeCuda::table(), gpu::kEmulatedOps,
                                      FakeCuda::facts(), 0, int64_t{1} << 28, 0, kind);
}

}  // namespace

TEST_CASE("the demo model's golden tokens do not depend on when CUDA does its work") {
  const nlohmann::json golden = read_json(TANDEM_SOURCE_DIR "/demo/golden.json")["Q8_0"];
  const auto prompt = golden["prompt_ids"].get<std::vector<int32_t>>();
  auto tokens = golden["greedy"].get<std::vector<int32_t>>();
  tokens.resize(4);
  Model model = Model::load(GgufFile::open(kDemoModel));
  const auto check = [&](SimSchedule schedule, uint64_t seed) {
    const HandOverKind kind = kKinds[seed % kKinds.size()];
    INFO("seed " << seed << ", " << hand_over_name(kind));
    FakeCuda fake;
    {
      auto device = open(kind);
      fake.set_schedule(schedule, seed);
      Engine engine(model, test_machine(), cuda_settings(std::array{3, 20, 80}[seed % 3]),
                    {std::move(device), {"device", "cuda", "cuda", ""}});
      CHECK(greedy(engine, prompt, static_cast<int>(tokens.size())) == tokens);
    }
    CHECK(fake.misuse.empty());
    CHECK(fake.alive() == 0);
  };
  // Experts are packed on the way to the GPU, which the host waits for, and then in host memory.
  for (const bool packed : {false, true}) {
    if (packed) model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
    INFO("packed " << packed);
    for (uint64_t seed = 0; seed < kLate; ++seed) check(SimSchedule::kLate, seed);
    for (uint64_t seed = 1; seed <= kRandom; ++seed) check(SimSchedule::kRandom, seed);
  }
}

}  // namespace tandem::test
