// What goes over the link, as the CUDA runtime is told, beside what plans and prefetches said.
#include <array>

#include "runtime/device/cuda_device.h"
#include "runtime/engine/expert_slots.h"
#include "scheduler/make_scheduling.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/fake_cuda.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int kCopy = 1;  // the second stream of a device

// Adds up what plans fetch, and lets the policy's own prefetcher work.
class CountingPrefetcher final : public Prefetcher {
 public:
  CountingPrefetcher(const StepHarness& harness, std::unique_ptr<Prefetcher> inner)
      : costs_(expert_costs(harness.model)), inner_(std::move(inner)) {}

  void observe(const RoutingDecision& routing, ExpertCache& cache) override {
    inner_->observe(routing, cache);
  }
  void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) override {
    const int64_t bytes = costs_[static_cast<size_t>(plan.layer().value)].bytes;
    for (const int32_t i : plan.fetches) {
      const PlannedExpert& expert = plan.experts[static_cast<size_t>(i)];
      planned += bytes * (expert.gpu - expert.present) / plan.pieces;
      ++(expert.slot.valid() ? with_slot : streamed);
    }
    inner_->prefetch(plan, cache, exec);
  }
  TransferStats stats() const override { return inner_->stats(); }

  int64_t planned = 0;
  int with_slot = 0;
  int streamed = 0;

 private:
  std::vector<ExpertCost> costs_;
  std::unique_ptr<Prefetcher> inner_;
};

}  // namespace

TEST_CASE("bytes over the link are those that plans and prefetches asked for") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  MachineProfile machine = test_machine();
  machine.cpu.read_gbps = 1;  // so that fetching is worth it
  machine.link.h2d_gbps = 20;
  FakeCuda fake;
  {
    StepHarness harness(model, 12,
                        std::make_unique<CudaDevice>(machine, FakeCuda::table(), gpu::kEmulatedOps,
                                                     FakeCuda::facts(), 0, int64_t{1} << 28),
                        32, {1, 3});
    REQUIRE(harness.executor.streams());
    const SchedulingSettings policy;
    const std::vector<ExpertCost> costs = expert_costs(model);
    Planner planner(CostModel(machine), costs,
                    {place_exact, true, policy.may_split, true, policy.admission});
    CountingPrefetcher counting(
        harness, make_prefetcher(policy, CostModel(machine), costs, harness.cache, nullptr));
    const int64_t loaded = fake.bytes_to_device[kCopy];
    const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535, 438, 307, 258};
    run_step({prompt, 0, 1}, harness.executor, planner, harness.cache, counting, harness.plan);
    for (int64_t at = 8; at < 30; ++at) {
      run_step({std::span(prompt).subspan(static_cast<size_t>(at % 8), 1), at, 1}, harness.executor,
               planner, harness.cache, counting, harness.plan);
    }
    CHECK(counting.with_slot > 0);
    CHECK(counting.streamed > 0);
    CHECK(counting.stats().bytes > 0);
    CHECK(fake.bytes_to_device[kCopy] - loaded == counting.planned + counting.stats().bytes);
  }
  CHECK(fake.misuse.empty());
}

TEST_CASE("who waits for experts to be copied at the start is told how far it is, by layers") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto n_layers = static_cast<size_t>(model.config().n_layers);
  const int32_t n_experts = model.config().routing.n_experts;
  std::vector<std::array<int64_t, 2>> told;
  const auto listen = [&](int64_t done, int64_t of) { told.push_back({done, of}); };

  EngineSettings all = sim_settings(static_cast<int32_t>(n_layers) * n_experts);
  all.copied = listen;
  const Engine holds_all(model, test_machine(), all);
  int64_t bytes = 0;
  for (const int64_t one : ExpertSlots::expert_bytes(model, holds_all.device())) {
    bytes += one * n_experts;
  }
  REQUIRE(told.size() == n_layers);
  for (size_t layer = 0; layer < n_layers; ++layer) {
    CAPTURE(layer);
    CHECK(told[layer][1] == bytes);
    CHECK(told[layer][0] > (layer > 0 ? told[layer - 1][0] : 0));
  }
  CHECK(told.back()[0] == bytes);

  told.clear();
  EngineSettings some = sim_settings(12);
  some.copied = listen;
  Engine holds_some(model, test_machine(), some);
  CHECK(told.empty());
  CHECK(holds_some.start_with(holds_all.hot_set()) == 12);
  REQUIRE(!told.empty());
  CHECK(told.back()[0] == told.back()[1]);
  CHECK(told.back()[1] == 12 * bytes / (static_cast<int64_t>(n_layers) * n_experts));
}

}  // namespace tandem::test
