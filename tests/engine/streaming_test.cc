// Experts that are fetched without a slot: they pass through two buffers, one after the other.
#include <memory>
#include <utility>
#include <vector>

#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

const std::vector<int32_t> kTokens{4093, 3384, 794, 258, 535, 438, 307, 258};

Batch batch() { return {kTokens, 0, static_cast<int32_t>(kTokens.size())}; }

SimSettings checked(SimKernels kernels, SimSchedule schedule) {
  SimSettings sim;
  sim.kernels = kernels;
  sim.schedule = schedule;
  sim.check_hazards = true;
  return sim;
}

// A step in which the GPU computes every expert whole, whatever has to be fetched for that.
std::vector<float> all_on_gpu(StepHarness* harness) {
  return run_divided(harness, batch(), -1, {{0, harness->cache.shape().pieces}});
}

// Microseconds of a step with three slots by the clock of a GPU and link of such speeds, GB/s; with
// all experts on the GPU, or none.
double step_us(const Model& model, double gpu_gbps, double link_gbps, bool experts) {
  MachineProfile machine = test_machine();
  machine.cpu = {1e9, 1e9, 0};
  machine.gpu.gflops = 1e12;
  machine.gpu.launch_us = 0;
  machine.gpu.read_gbps = gpu_gbps;
  machine.link = {link_gbps, link_gbps, 0};
  machine.dram_gbps = 1e9;
  auto device = std::make_unique<SimDevice>(machine, machine.gpu.vram_bytes);
  SimDevice& clock = *device;
  StepHarness harness(model, 3, std::move(device));
  clock.host_wait_all();  // for the dense weights
  const double start = clock.host_now_us();
  run_divided(&harness, batch(), -1, {{0, experts ? harness.cache.shape().pieces : 0}});
  return clock.host_now_us() - start;
}

}  // namespace

TEST_CASE("an expert is copied while the one before it is computed (modelled)") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  constexpr double kNoTime = 1e9;
  constexpr double kLink = 10;
  const double copies = step_us(model, kNoTime, kLink, true);
  // What is not of experts: the CPU's take the same time whatever the GPU is.
  const auto dense = [&](double gbps) {
    return step_us(model, gbps, kNoTime, false) - step_us(model, kNoTime, kNoTime, false);
  };
  const auto experts = [&](double gbps, double link) {
    return step_us(model, gbps, link, true) - dense(gbps);
  };
  // A GPU whose experts take as long as their copies.
  const double gbps = experts(1, kNoTime) / copies;
  REQUIRE(experts(gbps, kNoTime) == Approx(copies).epsilon(0.01));
  const double both = experts(gbps, kLink);
  CHECK(both >= copies);
  // One after the other: 2. In each layer the first copy and the last expert have nothing beside
  // them, and experts of more tokens take longer than others.
  CHECK(both < 1.35 * copies);
}

TEST_CASE("more experts than slots are fetched in a layer, and give what they give with a slot") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (const SimKernels kernels : {SimKernels::kHost, SimKernels::kEmulated}) {
    for (const SimSchedule schedule : {SimSchedule::kAtOnce, SimSchedule::kLate}) {
      if (kernels == SimKernels::kHost && schedule == SimSchedule::kLate) continue;
      StepHarness roomy(model, 1000, 64, {}, checked(kernels, schedule));
      REQUIRE_FALSE(roomy.executor.streams());
      const std::vector<float> expected = all_on_gpu(&roomy);
      const std::vector<int64_t> bytes = ExpertSlots::expert_bytes(model, *roomy.device);
      StepHarness harness(model, 3, 64, {}, checked(kernels, schedule));
      REQUIRE(harness.executor.n_slots() == 3);
      REQUIRE(harness.executor.streams());
      const int64_t loaded = harness.device->copied_to_device_bytes();
      CHECK(all_on_gpu(&harness) == expected);
      const ExecutorStats& stats = harness.executor.stats();
      CHECK(stats.experts_cpu == 0);
      CHECK(stats.experts_gpu > uint64_t{6} * static_cast<uint64_t>(harness.executor.n_layers()));
      CHECK(harness.device->copied_to_device_bytes() - loaded >=
            static_cast<int64_t>(stats.experts_gpu) * bytes.front());
    }
  }
}

TEST_CASE("buffers are there where some expert has no slot and slots are left beside them") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const ModelConfig& config = model.config();
  const auto all = static_cast<int32_t>(config.n_layers) * config.routing.n_experts;
  CHECK(StepHarness(model, all - 1).executor.streams());
  CHECK_FALSE(StepHarness(model, all).executor.streams());
  CHECK_FALSE(StepHarness(model, 0).executor.streams());
  CHECK_FALSE(StepHarness(model, -1).executor.streams());
}

}  // namespace tandem::test
