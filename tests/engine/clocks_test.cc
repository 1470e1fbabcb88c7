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

TEST_CASE("a step's embedding does not wait for experts that are being copied") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  std::vector<CopySlice> slices;
  for (int32_t i = 0; i < 8; ++i) slices.push_back({{LayerId{1}, ExpertId{i}}, SlotId{i}, 0, 1});
  std::vector<ModelTime> landed(slices.size());
  harness.executor.prefetch(slices, landed);
  const double copied_us = harness.device->stream_now_us(Stream::kCopy);
  const std::vector<int32_t> tokens{258};
  harness.executor.begin_step({tokens, 0, 1});
  CHECK(harness.device->stream_now_us(Stream::kCompute) < copied_us);
  CHECK(harness.device->stream_now_us(Stream::kCopy) == copied_us);
}

TEST_CASE("a step's embedding overwrites the residual only after the kernels that read it") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  harness.device->launch(Stream::kCompute, {"busy", {}, 300'000'000, 0, [](const KernelScope&) {}});
  const double busy_us = harness.device->stream_now_us(Stream::kCompute);
  const std::vector<int32_t> tokens{258};
  harness.executor.begin_step({tokens, 0, 1});
  const int64_t bytes = model.config().d_model * static_cast<int64_t>(sizeof(float));
  CHECK(harness.device->stream_now_us(Stream::kCompute) >=
        busy_us + CostModel(harness.machine).h2d_us(bytes));
}

}  // namespace tandem::test
