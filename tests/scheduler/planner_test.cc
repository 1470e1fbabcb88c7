#include "scheduler/planner.h"

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int64_t kBytes = 4'000'000;  // CPU 100 us, GPU 10 us, link 200 us on the round machine

struct Layer {
  explicit Layer(int32_t n_slots, int32_t pieces = 1)
      : cache({1, 8, pieces, {kBytes}, n_slots * kBytes},
              make_eviction_policy("lru", {1, 8, nullptr, {}})) {}

  void put(int expert, int32_t pieces, ModelTime ready) {
    const ExpertCache::Offer offer = cache.offer(LayerId{0});
    REQUIRE(offer.slot.valid());
    cache.insert({LayerId{0}, ExpertId{expert}}, offer.slot);
    cache.set_pieces(offer.slot, pieces, ready);
  }
  LayerPlan plan(const std::vector<int>& counts, const Clocks& now, PlannerSettings settings = {}) {
    const Loads loads(0, counts);
    Planner planner(CostModel(round_machine()), {{kBytes, 1000, cache.shape().pieces}}, settings);
    LayerPlan plan;
    planner.plan(loads.decision, cache, now, &plan);
    plan.use.ranked = {};
    return plan;
  }

  ExpertCache cache;
};

}  // namespace

TEST_CASE("a plan lists the activated experts, heaviest first, and the cache gets the same") {
  Layer layer(4);
  const LayerPlan plan = layer.plan({1, 0, 3, 1}, {});
  REQUIRE(plan.experts.size() == 3);
  CHECK(plan.experts[0].expert == ExpertId{2});
  CHECK(plan.experts[0].count == 3);
  CHECK(plan.experts[1].expert == ExpertId{0});
  CHECK(plan.experts[2].expert == ExpertId{3});
  CHECK(plan.used == std::vector<ExpertId>{ExpertId{2}, ExpertId{0}, ExpertId{3}});
  CHECK(plan.layer() == LayerId{0});
}

TEST_CASE("a resident expert runs on the GPU, an absent one on the CPU when that is sooner") {
  Layer layer(4);
  layer.put(1, 1, 0);
  const LayerPlan plan = layer.plan({1, 1}, {});
  CHECK(plan.experts[0].gpu == 0);
  CHECK_FALSE(plan.experts[0].slot.valid());
  CHECK(plan.experts[1].gpu == 1);
  CHECK(plan.experts[1].slot.valid());
  CHECK(plan.fetches.empty());
  CHECK(plan.end.cpu == Approx(8 + 100));
  CHECK(plan.end.gpu == Approx(4 + 10));
}

TEST_CASE("of many absent experts some are fetched while the CPU computes the others") {
  Layer layer(8);
  const LayerPlan plan = layer.plan({1, 1, 1, 1, 1, 1, 1, 1}, {});
  CHECK(plan.fetches.size() == 3);
  CHECK(plan.end.cpu > 500);
  CHECK(plan.end.gpu <= plan.end.cpu);
  CHECK(plan.end.link == Approx(5 + 3 * 200));
}

TEST_CASE("without buffers to stream through no more is fetched than may be admitted") {
  Layer layer(8);
  PlannerSettings settings;
  settings.admission.most_per_layer = 2;
  LayerPlan plan = layer.plan({1, 1, 1, 1, 1, 1, 1, 1}, {}, settings);
  CHECK(plan.fetches.size() == 2);
  commit(&plan, &layer.cache);
  CHECK(layer.cache.resident() == 2);
  // With buffers all three are fetched, and two of them stay.
  Layer streaming(8);
  settings.streams = true;
  plan = streaming.plan({1, 1, 1, 1, 1, 1, 1, 1}, {}, settings);
  CHECK(plan.fetches.size() == 3);
  commit(&plan, &streaming.cache);
  CHECK(streaming.cache.resident() == 2);
}

TEST_CASE("without the GPU everything runs on the CPU, residents too") {
  Layer layer(4);
  layer.put(1, 1, 0);
  const LayerPlan plan = layer.plan({1, 1}, {}, {place_exact, false, true});
  for (const PlannedExpert& expert : plan.experts) CHECK(expert.gpu == 0);
  CHECK(plan.end.cpu == Approx(8 + 200));
}

TEST_CASE("an expert on its way is waited for when that is sooner than the CPU") {
  Layer layer(4);
  layer.put(0, 1, 50);
  const LayerPlan soon = layer.plan({1}, {0, 0, 50});
  CHECK(soon.experts[0].gpu == 1);
  CHECK(soon.end.gpu == Approx(50 + 4 + 10));
  Layer late(4);
  late.put(0, 1, 500);
  CHECK(late.plan({1}, {0, 0, 500}).experts[0].gpu == 0);
}

TEST_CASE("of an expert that is partly there only the rest is fetched") {
  Layer layer(4, 4);
  layer.put(0, 3, 0);
  const LayerPlan plan = layer.plan({1}, {});
  CHECK(plan.experts[0].present == 3);
  CHECK(plan.end.link <= 5 + 50);
  CHECK(std::max(plan.end.cpu, plan.end.gpu) < 75);
}

TEST_CASE("a committed plan has slots for what it fetches, with the pieces that it sends") {
  Layer layer(8);
  LayerPlan plan = layer.plan({1, 1, 1, 1, 1, 1, 1, 1}, {});
  commit(&plan, &layer.cache);
  CHECK(layer.cache.resident() == static_cast<int32_t>(plan.fetches.size()));
  CHECK(layer.cache.stats().misses == 8);
  for (const int32_t i : plan.fetches) {
    const PlannedExpert& expert = plan.experts[static_cast<size_t>(i)];
    CHECK(layer.cache.find({LayerId{0}, expert.expert}) == expert.slot);
    CHECK(layer.cache.pieces(expert.slot) == 1);
    CHECK(layer.cache.ready_at(expert.slot) == plan.end.link);
  }
}

TEST_CASE("behind copies that are under way a fetch pays no latency") {
  Layer layer(8);
  const std::vector<int> all{1, 1, 1, 1, 1, 1, 1, 1};
  const LayerPlan idle = layer.plan(all, {0, 0, 0});
  const LayerPlan busy = layer.plan(all, {0, 0, 10});
  CHECK(idle.end.link == Approx(5 + 200.0 * static_cast<double>(idle.fetches.size())));
  CHECK(busy.end.link == Approx(10 + 200.0 * static_cast<double>(busy.fetches.size())));
}

TEST_CASE("what is streamed needs no slot, and none that is in use is given up for it") {
  Layer layer(2);
  layer.put(0, 1, 0);
  layer.put(1, 1, 0);
  PlannerSettings settings;
  const std::vector<int> counts{9, 8, 90, 80, 70, 60, 50, 40};
  settings.streams = false;
  CHECK(layer.plan(counts, {}, settings).fetches.empty());
  settings.streams = true;
  LayerPlan plan = layer.plan(counts, {}, settings);
  REQUIRE(plan.fetches.size() >= 2);
  commit(&plan, &layer.cache);
  CHECK(layer.cache.resident() == 2);
  CHECK(layer.cache.find({LayerId{0}, ExpertId{0}}).valid());
  CHECK(layer.cache.stats().refused == plan.fetches.size());
  for (const int32_t i : plan.fetches) {
    CHECK_FALSE(plan.experts[static_cast<size_t>(i)].slot.valid());
  }
}

}  // namespace tandem::test
