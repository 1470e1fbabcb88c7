#include "scheduler/step.h"

#include <string>
#include <vector>

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Log = std::vector<std::string>;

std::string at(const char* what, LayerId layer) {
  return std::string(what) + " " + std::to_string(layer.value);
}

// Every layer activates experts 1 and 2, once each.
class FakeExecutor final : public Executor {
 public:
  FakeExecutor(Log& log, const ExpertCache& cache) : log_(log), cache_(cache) {}

  int32_t n_layers() const override { return 2; }
  Clocks clocks() const override { return {}; }
  void begin_step(const Batch& batch) override {
    log_.push_back("begin " + std::to_string(batch.tokens.size()) + " tokens");
  }
  const RoutingDecision& route(LayerId layer) override {
    log_.push_back(at("route", layer));
    return layer.value == 0 ? first_.decision : second_.decision;
  }
  void run(const LayerPlan& plan) override {
    log_.push_back(at("run", plan.layer()));
    for (const int32_t i : plan.fetches) {
      const PlannedExpert& e = plan.experts[static_cast<size_t>(i)];
      const SlotId slot = cache_.find({plan.layer(), e.expert});
      slots_as_planned = slots_as_planned && slot.valid() && slot == e.slot &&
                         cache_.pieces(slot) == e.gpu && cache_.ready_at(slot) == plan.end.link;
    }
    n_incoming += static_cast<int>(plan.incoming.size());
    for (const PlannedExpert& e : plan.experts) n_resident += e.present > 0 ? 1 : 0;
  }
  void prefetch(std::span<const CopySlice>, std::span<ModelTime>) override {}
  std::span<const float> end_step() override {
    log_.emplace_back("end");
    return logits_;
  }

  bool slots_as_planned = true;
  int n_incoming = 0;
  int n_resident = 0;

 private:
  Log& log_;
  const ExpertCache& cache_;
  Loads first_{0, {0, 1, 1, 0}};
  Loads second_{1, {0, 1, 1, 0}};
  std::vector<float> logits_{0.25F, 0.5F};
};

class FakePrefetcher final : public Prefetcher {
 public:
  explicit FakePrefetcher(Log& log) : log_(log) {}
  void observe(const RoutingDecision& routing, ExpertCache&) override {
    log_.push_back(at("observe", routing.layer));
  }
  void prefetch(const LayerPlan& plan, ExpertCache&, Executor&) override {
    log_.push_back(at("prefetch", plan.layer()));
  }
  TransferStats stats() const override { return {}; }

 private:
  Log& log_;
};

struct Fixture {
  Log log;
  ExpertCache cache{{2, 4, 1, {4'000'000, 4'000'000}, 32'000'000},
                    make_eviction_policy("lru", {2, 4, nullptr, {}})};
  // Everything is fetched.
  Planner planner{CostModel(round_machine()),
                  std::vector<ExpertCost>(2, {4'000'000, 1000, 1}),
                  {place_gpu_only, true, true}};
  FakeExecutor exec{log, cache};
  FakePrefetcher prefetcher{log};
  LayerPlan plan;
  const std::vector<int32_t> tokens{7, 8, 9};

  std::span<const float> step() {
    return run_step({tokens, 0, 1}, exec, planner, cache, prefetcher, plan);
  }
};

TEST_CASE("a step goes layer by layer: route, observe, run, prefetch") {
  Fixture f;
  f.step();
  CHECK(f.log == Log{"begin 3 tokens", "route 0", "observe 0", "run 0", "prefetch 0", "route 1",
                     "observe 1", "run 1", "prefetch 1", "end"});
}

TEST_CASE("a step returns the executor's logits") {
  Fixture f;
  const auto logits = f.step();
  CHECK(std::vector<float>(logits.begin(), logits.end()) == std::vector<float>{0.25F, 0.5F});
}

TEST_CASE("the cache has taken the incoming experts in before a layer runs") {
  Fixture f;
  f.step();
  CHECK(f.exec.n_incoming > 0);
  CHECK(f.exec.slots_as_planned);
  CHECK(f.cache.resident() == f.exec.n_incoming);
}

TEST_CASE("what one step brought in is resident in the next") {
  Fixture f;
  f.step();
  CHECK(f.exec.n_resident == 0);
  const int resident = f.cache.resident();
  f.step();
  CHECK(f.exec.n_resident == resident);
  CHECK(f.cache.stats().hits == static_cast<uint64_t>(resident));
}

}  // namespace
}  // namespace tandem::test
