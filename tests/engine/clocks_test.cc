#include "runtime/device/sim_device.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a stream that was idle can start nothing before the host's present") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  const Timepoint done = harness.device->begin_host_work("host work", {}, 5000);
  harness.device->end_host_work(done);
  harness.device->host_wait(done);
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

TEST_CASE("the link copies beside the CPU's experts, and the next layer waits for these") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  HybridExecutor& exec = harness.executor;
  const std::vector<int32_t> tokens{258, 307};
  exec.begin_step({tokens, 0, 1});
  const RoutingDecision& routing = exec.route(LayerId{0});
  LayerPlan plan;
  plan.use.layer = LayerId{0};
  plan.pieces = harness.cache.shape().pieces;
  for (const ExpertLoad& load : routing.loads) {  // all on the CPU
    plan.experts.push_back({load.expert, load.first, load.count, {}, 0, 0, 0});
  }
  exec.run(plan);
  const Clocks run = exec.clocks();
  CHECK(run.cpu > run.link);
  const CopySlice slice{{LayerId{1}, ExpertId{3}}, SlotId{0}, 0, 1};
  ModelTime landed = 0;
  exec.prefetch({&slice, 1}, {&landed, 1});
  const int64_t bytes = model.weights().layers[1].experts[3].bytes() / plan.pieces;
  const double copy_us = harness.machine.link.latency_us + CostModel(harness.machine).h2d_us(bytes);
  CHECK(landed == Approx(run.link + copy_us));
  CHECK(exec.clocks().cpu == run.cpu);
  exec.route(LayerId{1});
  CHECK(harness.device->host_now_us() >= run.cpu);
}

}  // namespace tandem::test
