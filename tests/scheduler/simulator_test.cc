#include "scheduler/simulator.h"

#include <numeric>

#include "scheduler/replay.h"
#include "scheduler/step.h"
#include "scheduler/synthetic_trace.h"
#include "tests/scheduler/simulator_testing.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {

TEST_CASE("the same input gives the same result to the last bit") {
  const Fixture f;
  const SimResult a = simulate(f.input, f.ours);
  const SimResult b = simulate(f.input, f.ours);
  CHECK(a.totals.seconds == b.totals.seconds);
  CHECK(a.cache.hits == b.cache.hits);
  CHECK(a.transfers.started == b.transfers.started);
  CHECK(a.tokens == b.tokens);
}

TEST_CASE("with everything on the CPU a token takes what its parts add up to") {
  const Fixture f(0);
  const SimResult result = simulate(f.input, f.cpu_only());
  // Each layer: 50 us of overhead, attention 8 MB at 400 GB/s, the CPU's first 8 us and four
  // experts of 280 us: 14 MFLOP at 100 GFLOP/s are 140 us, 4 MB at 40 GB/s 100 us. At the end 40 MB
  // at 400 GB/s.
  const double token_us = 6 * (50 + 20 + 8 + 4 * 140.0) + 100;
  CHECK(result.totals.seconds * 1e6 == Approx(token_us * static_cast<double>(result.tokens)));
  CHECK(result.totals.experts_cpu == 24 * result.tokens);
  CHECK(result.totals.bytes_demand == 0);
  // The link has nothing to do in any experts' phase.
  CHECK(result.totals.link_waits * 1e6 ==
        Approx(6 * (8 + 4 * 140.0) * static_cast<double>(result.tokens)));
}

TEST_CASE("with everything resident nothing is missed and nothing is copied") {
  Fixture f;
  f.input.contents = Contents::kEverything;
  const SimResult result = simulate(f.input, f.ours);
  CHECK(result.cache.misses == 0);
  CHECK(result.hit_rate() == 1);
  CHECK(result.totals.bytes_demand == 0);
  CHECK(result.totals.bytes_prefetched == 0);
}

TEST_CASE("no miss ever is a bound, and the clairvoyant lies between it and us") {
  for (const double share : {0.1, 0.25, 0.5, 0.75}) {
    Fixture f(share);
    const double ours = simulate(f.input, f.ours).tokens_per_second();
    const double plain = simulate(f.input, f.without_prefetch()).tokens_per_second();
    const double best = simulate(f.input, f.clairvoyant()).tokens_per_second();
    f.input.contents = Contents::kEverything;
    const double bound = simulate(f.input, f.ours).tokens_per_second();
    INFO("share " << share);
    CHECK(plain <= ours);
    CHECK(ours <= best);
    CHECK(best <= bound);
  }
}

TEST_CASE("a resource is busy for no longer than the run") {
  const Fixture f;
  for (const SchedulingSettings& settings : {f.ours, f.without_prefetch(), f.clairvoyant()}) {
    const SimTotals t = simulate(f.input, settings).totals;
    CHECK(t.cpu_busy <= t.seconds);
    CHECK(t.gpu_busy <= t.seconds);
    CHECK(t.link_busy <= t.seconds * 1.001);
    CHECK(t.link_busy + t.link_waits <= t.seconds * 1.001);
  }
}

TEST_CASE("a long prompt is read faster with a GPU that streams than by the CPU alone") {
  Fixture f;
  f.input.steps = prefill_steps(f.trace, 64);
  const double cpu = simulate(f.input, f.cpu_only()).tokens_per_second();
  const double ours = simulate(f.input, f.ours).tokens_per_second();
  SchedulingSettings per_layer = f.without_prefetch();
  per_layer.pool = PoolShape::kPerLayer;
  // Every expert is used: its own layer's slots are all in use, and yet the link is not idle.
  const SimResult streamed = simulate(f.input, per_layer);
  CHECK(ours > 1.5 * cpu);
  CHECK(streamed.totals.bytes_demand > 0);
  CHECK(streamed.tokens_per_second() > 1.5 * cpu);
}

TEST_CASE("prompts are joined from the trace's tokens, and all but the first are measured") {
  const Fixture f;
  const std::vector<SimStep> steps = prefill_steps(f.trace, 64);
  REQUIRE(steps.size() == 4);  // 4 x 76 tokens
  CHECK_FALSE(steps[0].measured);
  CHECK(steps[1].measured);
  CHECK(steps[1].rows.front() == 64);
  CHECK(steps[3].rows.back() == 255);
  CHECK(prefill_steps(f.trace, 200).empty());
}

TEST_CASE("decoding is measured after the first third of the sequences, prompts never") {
  const Fixture f;
  int64_t measured = 0;
  for (const SimStep& step : f.input.steps) measured += step.measured ? 1 : 0;
  CHECK(measured == 3 * 60);
  // The first sequence, and the prompt of the second.
  CHECK(learning_rows(f.input.steps).size() == 76 + 16);
}

TEST_CASE("whole last layers fill the slots, and what is left over stays free") {
  // Layers of two sizes, 8 experts each: 1, 3 and 4 in slots of 100 bytes, 0 and 2 in larger ones.
  const CacheShape shape{5, 8, 1, {300, 100, 300, 100, 100}, 0, PoolShape::kShared};
  for (const int64_t capacity : {0, 1000, 3000, 4500, 7200}) {
    CacheShape sized = shape;
    sized.capacity_bytes = capacity;
    ExpertCache cache(sized, make_eviction_policy("static", {5, 8, nullptr, {}}));
    fill_last_layers(&cache);
    INFO("capacity " << capacity);
    for (const std::vector<int>& same_size : {std::vector{4, 3, 1}, std::vector{2, 0}}) {
      const int64_t bytes = shape.expert_bytes[static_cast<size_t>(same_size[0])];
      int slots = 0;
      for (const SlotClass& c : cache.classes()) slots = c.slot_bytes == bytes ? c.count : slots;
      for (const int layer : same_size) {
        const int whole = slots >= 8 ? 8 : 0;
        slots -= whole;
        CHECK(cache.slots_of(LayerId{layer}).size() == static_cast<size_t>(whole));
      }
    }
  }
}

TEST_CASE("llama.cpp's layers stay what they are: their experts hit, all others miss") {
  Fixture f(0.5);
  f.input.contents = Contents::kLayers;
  SchedulingSettings settings = f.without_prefetch();
  settings.policy = "static";
  settings.planner = "llama-ncmoe";
  const SimResult result = simulate(f.input, settings);
  // Half of six layers; every token uses four experts of each.
  CHECK(result.cache.hits == static_cast<uint64_t>(3 * 4 * result.tokens));
  CHECK(result.cache.misses == result.cache.hits);
  CHECK(result.cache.inserts == 0);
  CHECK(result.cache.evictions == 0);
  CHECK(result.totals.bytes_demand == 0);
  // Even a planner that fetches, and passes what it fetched through a buffer, leaves them alone.
  settings.planner = "adapmoe";
  const SimResult fetching = simulate(f.input, settings);
  CHECK(fetching.totals.bytes_demand > 0);
  CHECK(fetching.cache.hits == result.cache.hits);
  CHECK(fetching.cache.evictions == 0);
}

TEST_CASE("a cache that starts with nothing, the first experts or learned ones hits accordingly") {
  Fixture f(0.5);
  f.input.hot = learning_rows(f.input.steps);
  SchedulingSettings fixed = f.without_prefetch();
  fixed.policy = "static";
  fixed.planner = "ktransformers";
  const auto hits = [&](Contents contents) {
    f.input.contents = contents;
    return simulate(f.input, fixed).cache.hits;
  };
  CHECK(hits(Contents::kEmpty) == 0);
  uint64_t first = 0;  // of the eight that every layer's share of the slots holds
  for (const SimStep& step : f.input.steps) {
    if (!step.measured) continue;
    for (int32_t l = 0; l < 6; ++l) {
      const auto ids = f.trace.ids_of(step.rows[0], l);
      for (int k = 0; k < 4; ++k) first += ids[static_cast<size_t>(k)] < 8 ? 1 : 0;
    }
  }
  CHECK(hits(Contents::kFirst) == first);
  CHECK(hits(Contents::kHot) > first);
}

TEST_CASE("the timeline holds what was measured, in order, on each resource") {
  Fixture f;
  Timeline timeline;
  f.input.timeline = &timeline;
  simulate(f.input, f.ours);
  REQUIRE_FALSE(timeline.spans.empty());
  double cpu = 0;
  for (const TimelineSpan& span : timeline.spans) {
    REQUIRE(span.end > span.begin);
    if (span.resource != Resource::kCpu) continue;
    REQUIRE(span.begin >= cpu);
    cpu = span.end;
  }
}

TEST_CASE("keeping what was missed gives a rule that never fetches the hit rate of a plain cache") {
  Fixture f(0.5);
  f.machine.link.h2d_gbps = 1e6;  // all that a layer misses is copied before the next
  std::erase_if(f.input.steps, [](const SimStep& step) { return step.rows.size() > 1; });
  SchedulingSettings settings;
  settings.planner = "ktransformers";
  settings.prefetcher = "missed";
  settings.pool = PoolShape::kPerLayer;
  for (const char* policy : {"lru", "mrs"}) {
    CAPTURE(policy);
    settings.policy = policy;
    const SimResult kept = simulate(f.input, settings);
    const ReplayResult plain = replay({&f.trace,
                                       f.shape.expert_bytes,
                                       f.input.capacity_bytes,
                                       PoolShape::kPerLayer,
                                       policy,
                                       {},
                                       {},
                                       {},
                                       Contents::kHot,
                                       f.input.steps});
    CHECK(kept.cache.hits == plain.warm.hits);
    CHECK(kept.cache.misses == plain.warm.misses);
    CHECK(kept.totals.bytes_demand == 0);
  }
  settings.prefetcher = "none";
  CHECK(simulate(f.input, settings).cache.hits == 0);
}

TEST_CASE("what the idle link cannot bring of the missed experts is dropped") {
  Fixture f(0.5);
  f.machine.link.h2d_gbps = 1;
  SchedulingSettings settings;
  settings.planner = "ktransformers";
  settings.prefetcher = "missed";
  settings.policy = "lru";
  const SimResult kept = simulate(f.input, settings);
  CHECK(kept.cache.hits > 0);
  CHECK(kept.transfers.started < kept.cache.misses + kept.cold.misses);
  settings.prefetcher = "none";
  const double without = simulate(f.input, settings).tokens_per_second();
  CHECK(kept.tokens_per_second() >= without);
}

TEST_CASE("HybriMoE's prefetcher begins as many experts in a layer as it is told") {
  Fixture f;
  SchedulingSettings settings;
  settings.planner = "ktransformers";
  settings.prefetcher = "hybrimoe";
  f.machine.link.h2d_gbps = 1e6;  // the number alone is the limit
  uint64_t visits = 0;
  for (const SimStep& step : f.input.steps) visits += step.rows.empty() ? 0 : 6;
  settings.prefetch.per_layer = 1;
  const uint64_t one = simulate(f.input, settings).transfers.started;
  settings.prefetch.per_layer = 4;
  const uint64_t four = simulate(f.input, settings).transfers.started;
  CHECK(one > visits / 2);
  CHECK(one <= visits);
  CHECK(four > one);
  CHECK(four <= 4 * visits);
}

TEST_CASE("a simulated token allocates nothing once its vectors have grown") {
  const Fixture f;
  const CostModel model(f.machine);
  const std::vector<ExpertCost> experts = expert_costs(f.shape);
  for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer}) {
    ExpertCache cache({6, 16, 4, f.shape.expert_bytes, f.input.capacity_bytes, pool},
                      make_eviction_policy("ewma", {6, 16}));
    Planner planner(model, experts, {place_exact, true, true, true, {AdmissionRule::kIfBetter}});
    ImpactPrefetcher prefetcher(model, experts, cache, make_predictor("gate-reuse", {6, 16, 3}),
                                {});
    SimExecutor exec(f.trace, f.shape, f.machine, f.input.lookahead, 1);
    LayerPlan plan;
    int64_t before = 0;
    for (int32_t t = 0; t < 200; ++t) {
      if (t == 40) before = allocation_count;
      run_step({{&t, 1}, t, 1}, exec, planner, cache, prefetcher, plan);
    }
    CHECK(allocation_count - before == 0);
    CHECK(prefetcher.stats().started > 0);
  }
}

}  // namespace tandem::test
