#include "scheduler/planner.h"

#include <algorithm>
#include <set>
#include <vector>

#include "tests/scheduler/planner_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// On the round machine with the problem's default cost: 100 us on the CPU (up to 5 tokens), 14 us
// on the GPU, 215 us to fetch, 8 us to wake the CPU's workers.
Problem absent_experts(int n) {
  Problem p;
  p.experts.assign(static_cast<size_t>(n), {1, false, 0});
  return p;
}

std::vector<int> ids(const std::vector<ExpertId>& experts) {
  std::vector<int> out;
  for (const ExpertId e : experts) out.push_back(e.value);
  return out;
}

int placed(const LayerPlan& plan, Placement where) {
  return static_cast<int>(std::count_if(plan.experts.begin(), plan.experts.end(),
                                        [&](const auto& e) { return e.placement == where; }));
}

TEST_CASE("the CPU's workers are woken once a layer") {
  Problem p = absent_experts(3);
  p.settings.use_gpu = false;
  CHECK(plan_of(p).end.cpu == Approx(8 + 3 * 100));
}

TEST_CASE("a layer whose experts are all resident leaves the CPU alone") {
  Problem p;
  p.experts.assign(3, {1, true, 0});
  const LayerPlan plan = plan_of(p);
  CHECK(placed(plan, Placement::kGpu) == 3);
  CHECK(plan.end.cpu == 0);
  CHECK(plan.end.gpu == Approx(3 * 14));
  CHECK(plan.incoming.empty());
}

TEST_CASE("two misses run on the CPU when a copy takes longer than both") {
  const LayerPlan plan = plan_of(absent_experts(2));  // 208 us against 229
  CHECK(plan.n_fetch == 0);
  CHECK(plan.end.cpu == Approx(208));
}

TEST_CASE("one of three misses is fetched when that ends the layer sooner") {
  Problem p = absent_experts(3);  // 308 us on the CPU; 229 with one on the GPU
  p.settings.admit_per_layer = 0;
  const LayerPlan plan = plan_of(p);
  CHECK(plan.n_fetch == 1);
  CHECK(plan.end.cpu == Approx(208));
  CHECK(plan.end.gpu == Approx(229));
  CHECK(plan.end.link == Approx(215));
}

TEST_CASE("on a tie nothing is fetched") {
  Problem p = absent_experts(1);
  p.now.cpu = 121;  // 229 us either way
  CHECK(plan_of(p).n_fetch == 0);
  p.now.cpu = 122;
  CHECK(plan_of(p).n_fetch == 1);
}

TEST_CASE("a busy link keeps experts from being fetched") {
  Problem p = absent_experts(3);
  p.now.link = 100;  // 329 us with a fetch, 308 without
  CHECK(plan_of(p).n_fetch == 0);
}

TEST_CASE("an expert whose copy is on the way waits for it on the GPU") {
  Problem p;
  p.experts = {{1, true, 500}};
  const LayerPlan plan = plan_of(p);
  REQUIRE(plan.experts.size() == 1);
  CHECK(plan.experts[0].placement == Placement::kGpu);
  CHECK(plan.experts[0].ready == 500);
  CHECK(plan.end.gpu == Approx(514));
}

TEST_CASE("a resident expert runs from the slot where the cache has it") {
  Problem p;
  p.experts = {{1, true, 0}, {1, false, 0}, {1, true, 0}};
  const ExpertCache cache = p.cache();
  const LayerPlan plan = plan_of(p);
  for (const PlannedExpert& e : plan.experts) {
    CHECK(e.slot == cache.find({LayerId{0}, e.expert}));
  }
}

TEST_CASE("experts are planned heaviest first, ties by the lower id") {
  Problem p;
  for (const int count : {2, 7, 0, 2, 9, 7}) p.experts.push_back({count, false, 0});
  const LayerPlan plan = plan_of(p);
  CHECK(ids(plan.used) == std::vector<int>{4, 1, 5, 0, 3});
  std::vector<ExpertId> planned;
  for (const PlannedExpert& e : plan.experts) planned.push_back(e.expert);
  CHECK(planned == plan.used);
}

TEST_CASE("a planned expert keeps its run of tokens") {
  Problem p;
  for (const int count : {2, 7, 0, 4}) p.experts.push_back({count, false, 0});
  const LayerPlan plan = plan_of(p);
  REQUIRE(plan.experts.size() == 3);
  CHECK(plan.experts[0].first == 2);  // expert 1 behind the two tokens of expert 0
  CHECK(plan.experts[0].count == 7);
  CHECK(plan.experts[1].first == 9);
  CHECK(plan.experts[2].first == 0);
}

TEST_CASE("without a GPU nothing is fetched, admitted or taken from a slot") {
  Problem p = absent_experts(6);
  p.experts[2].resident = true;
  p.settings = {false, 4};
  const LayerPlan plan = plan_of(p);
  CHECK(placed(plan, Placement::kCpu) == 6);
  CHECK(plan.incoming.empty());
  CHECK(plan.n_fetch == 0);
  CHECK(plan.end.gpu == 0);
  CHECK(plan.end.link == 0);
}

TEST_CASE("misses that ran on the CPU are admitted up to the limit, heaviest first") {
  for (const int limit : {0, 1, 2, 5}) {
    Problem p = absent_experts(2);
    p.experts[1].count = 2;
    p.settings.admit_per_layer = limit;
    const LayerPlan plan = plan_of(p);
    REQUIRE(plan.n_fetch == 0);
    CHECK(static_cast<int>(plan.incoming.size()) == std::min(limit, 2));
    if (limit > 0) CHECK(plan.incoming[0] == ExpertId{1});
    CHECK(placed(plan, Placement::kCpu) == 2);
  }
}

TEST_CASE("an admission's copy occupies the link and delays neither CPU nor GPU") {
  Problem p = absent_experts(2);
  p.settings.admit_per_layer = 2;
  const LayerPlan plan = plan_of(p);
  CHECK(plan.end.link == Approx(430));
  CHECK(plan.ready[0] == Approx(215));
  CHECK(plan.ready[1] == Approx(430));
  CHECK(plan.end.cpu == Approx(208));
  CHECK(plan.end.gpu == 0);
}

TEST_CASE("fetched experts come in before admitted ones and are ready in that order") {
  Problem p = absent_experts(6);
  p.settings.admit_per_layer = 2;
  const LayerPlan plan = plan_of(p);
  REQUIRE(plan.n_fetch > 0);
  REQUIRE(static_cast<int>(plan.incoming.size()) == plan.n_fetch + 2);
  CHECK(placed(plan, Placement::kFetch) == plan.n_fetch);
  for (size_t i = 0; i < plan.incoming.size(); ++i) {
    CHECK(plan.ready[i] == Approx(215.0 * static_cast<double>(i + 1)));
    const auto e = std::find_if(plan.experts.begin(), plan.experts.end(),
                                [&](const auto& x) { return x.expert == plan.incoming[i]; });
    const bool fetched = static_cast<int>(i) < plan.n_fetch;
    CHECK(e->placement == (fetched ? Placement::kFetch : Placement::kCpu));
  }
}

TEST_CASE("a plan always fits: what comes in is absent, distinct and has room beside the rest") {
  std::mt19937 random(21);
  for (int i = 0; i < 3000; ++i) {
    Problem p = random_problem(random, round_machine(), 1 + i % 64);
    p.settings.admit_per_layer = i % 4;
    LayerPlan plan = plan_of(p);
    ExpertCache cache = p.cache();
    REQUIRE(static_cast<int>(plan.incoming.size()) <= room(p));
    REQUIRE(static_cast<int>(plan.incoming.size()) <= plan.n_fetch + p.settings.admit_per_layer);
    REQUIRE(std::set(plan.incoming.begin(), plan.incoming.end()).size() == plan.incoming.size());
    REQUIRE(plan.ready.size() == plan.incoming.size());
    REQUIRE(plan.slots.size() == plan.incoming.size());
    cache.commit(plan.access());  // checks the rest
    for (const PlannedExpert& e : plan.experts) {
      if (e.placement != Placement::kCpu) REQUIRE(cache.find({LayerId{0}, e.expert}).valid());
    }
  }
}

TEST_CASE("with no room beside the residents every miss runs on the CPU") {
  Problem p = absent_experts(6);
  p.experts[0].resident = true;
  p.n_slots = 1;
  const LayerPlan plan = plan_of(p);
  CHECK(plan.incoming.empty());
  CHECK(placed(plan, Placement::kCpu) == 5);
  CHECK(placed(plan, Placement::kGpu) == 1);
}

TEST_CASE("planning leaves the cache and its statistics alone") {
  Problem p = absent_experts(6);
  const ExpertCache cache = p.cache();
  const Loads loads(0, p.counts());
  Planner planner(CostModel(p.machine), {p.cost}, {});
  LayerPlan plan;
  planner.plan(loads.decision, cache, p.now, &plan);
  CHECK(cache.resident() == 0);
  CHECK(cache.stats().misses == 0);
}

TEST_CASE("the same problem gives the same plan, whatever the plan held before") {
  std::mt19937 random(22);
  LayerPlan reused;
  for (int i = 0; i < 500; ++i) {
    const Problem p = random_problem(random, round_machine(), 64);
    const LayerPlan fresh = plan_of(p);
    const Loads loads(0, p.counts());
    const ExpertCache cache = p.cache();
    Planner planner(CostModel(p.machine), {p.cost}, p.settings);
    planner.plan(loads.decision, cache, p.now, &reused);
    REQUIRE(reused.used == fresh.used);
    REQUIRE(reused.incoming == fresh.incoming);
    REQUIRE(reused.ready == fresh.ready);
    REQUIRE(reused.n_fetch == fresh.n_fetch);
    REQUIRE(reused.end.cpu == fresh.end.cpu);
    REQUIRE(reused.end.gpu == fresh.end.gpu);
    REQUIRE(reused.end.link == fresh.end.link);
    for (size_t e = 0; e < fresh.experts.size(); ++e) {
      REQUIRE(reused.experts[e].expert == fresh.experts[e].expert);
      REQUIRE(reused.experts[e].placement == fresh.experts[e].placement);
      REQUIRE(reused.experts[e].slot == fresh.experts[e].slot);
    }
  }
}

TEST_CASE("each layer is planned with its own expert's cost") {
  const CacheShape shape{2, 4, 0};
  const ExpertCache cache(shape, make_eviction_policy("lru", shape));
  Planner planner(CostModel(round_machine()), {{4'000'000, 0, 3}, {8'000'000, 0, 3}}, {});
  LayerPlan plan;
  for (const int layer : {0, 1}) {
    const Loads loads(layer, {1, 0, 0, 0});
    planner.plan(loads.decision, cache, {}, &plan);
    CHECK(plan.layer == LayerId{layer});
    CHECK(plan.end.cpu == Approx(8 + 100 * (layer + 1)));
  }
}

TEST_CASE("a layer that activates nobody ends where it began") {
  Problem p = absent_experts(3);
  for (auto& e : p.experts) e.count = 0;
  p.now = {10, 20, 30};
  const LayerPlan plan = plan_of(p);
  CHECK(plan.experts.empty());
  CHECK(plan.end.cpu == 10);
  CHECK(plan.end.gpu == 20);
  CHECK(plan.end.link == 30);
}

}  // namespace
}  // namespace tandem::test
