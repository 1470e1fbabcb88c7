// What a known future is worth, and what a short memory costs.
//
// The theorem tested here. Each event asks for a set of one layer's experts at once. Rules: an
// expert comes in only when it is asked for and absent (demand), every absent one comes in (forced
// admission), nobody of the set leaves meanwhile, and misses are counted. Let every set fit into
// the slots that its layer may use. Then no choice of victims misses less often than Belady's.
// Proof: write each set twice in a row, one expert after the other. A schedule for sets serves
// that sequence with as many misses, so the classic optimum is a lower bound; the classic rule,
// applied to the sequence, never evicts a member of the set at hand, as it is asked for again
// sooner than anybody else, and so does the same as the rule on sets. Sizes and layers with slots
// of their own are caches of their own. Where a set does not fit, not everybody is admitted, who is
// does not depend on the future, and the theorem ends.
#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/cache/policy_definitions.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Favourites that change now and then, so that policies differ. At most `most` experts an event.
std::vector<Routing> draw_trace(std::mt19937& random, int n_layers, int n_experts, int most,
                                int n_events, bool in_order) {
  std::vector<Routing> trace;
  std::vector<int> favourite(static_cast<size_t>(n_layers), 0);
  for (int t = 0; t < n_events; ++t) {
    const int layer = in_order ? t % n_layers : static_cast<int>(random() % n_layers);
    if (random() % 30 == 0) favourite[static_cast<size_t>(layer)] = static_cast<int>(random());
    const size_t size = 1 + random() % static_cast<unsigned>(most);
    std::vector<ExpertId> used;
    while (used.size() < size) {
      const auto near = std::min(random() % n_experts, random() % n_experts);
      const auto from = static_cast<unsigned>(favourite[static_cast<size_t>(layer)]);
      const ExpertId e{static_cast<int>((near + from) % n_experts)};
      if (std::find(used.begin(), used.end(), e) == used.end()) used.push_back(e);
    }
    trace.push_back(routing(layer, used));
  }
  return trace;
}

// The least misses of all choices of victims, by trying every set of residents after every event.
// One pool of equal slots; all experts of all layers are bits of a mask.
uint64_t fewest_misses(const std::vector<Routing>& trace, int n_experts, int n_all, int n_slots) {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> least(size_t{1} << n_all, kNever);
  least[0] = 0;
  for (const Routing& event : trace) {
    uint32_t asked = 0;
    for (const ExpertId e : event.used) asked |= 1U << (event.layer * n_experts + e.value);
    std::vector<uint64_t> next(least.size(), kNever);
    for (uint32_t before = 0; before < least.size(); ++before) {
      if (least[before] == kNever) continue;
      const uint64_t misses = least[before] + static_cast<uint64_t>(std::popcount(asked & ~before));
      const uint32_t others = before & ~asked;
      for (uint32_t kept = others;; kept = (kept - 1) & others) {
        const uint32_t after = asked | kept;
        if (std::popcount(after) <= n_slots) next[after] = std::min(next[after], misses);
        if (kept == 0) break;
      }
    }
    least = std::move(next);
  }
  return *std::min_element(least.begin(), least.end());
}

TEST_CASE("Belady misses as often as the best of all possible evictions") {
  std::mt19937 random(1966);
  for (int round = 0; round < 40; ++round) {
    const int n_layers = 1 + round % 2;
    const int n_experts = 8 / n_layers;
    const int n_slots = 3 + static_cast<int>(random() % 3);
    const auto trace = draw_trace(random, n_layers, n_experts, 3, 40, round % 3 != 0);
    CAPTURE(round, n_slots);
    const CacheStats stats = replay(trace, shape_of(n_layers, n_experts, n_slots), {"belady"});
    CHECK(stats.misses == fewest_misses(trace, n_experts, 8, n_slots));
  }
}

void require_never_beaten(const CacheShape& shape, int most, uint32_t seed) {
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    const auto trace =
        draw_trace(random, shape.n_layers, shape.n_experts, most, 150, round % 2 == 0);
    const CacheStats bound = replay(trace, shape, {"belady"});
    REQUIRE(bound.misses == bound.inserts);  // forced admission: every set fits
    uint64_t worst = 0;
    for (const Choice& choice : standard_choices(shape.n_layers)) {
      CAPTURE(choice.policy, round, shape.expert_bytes, shape.capacity_bytes);
      const CacheStats stats = replay(trace, shape, choice);
      CHECK(stats.misses >= bound.misses);
      worst = std::max(worst, stats.misses);
    }
    CHECK(worst > bound.misses);
  }
}

TEST_CASE("no policy beats Belady on demand fetches in a shared pool that every set fits into") {
  for (const int slots : {3, 4, 7, 12}) require_never_beaten(shape_of(3, 8, slots), 3, 1);
}

TEST_CASE("no policy beats Belady on demand fetches in a pool for each layer") {
  for (const int slots : {9, 12, 15}) {
    require_never_beaten(shape_of(3, 8, slots, PoolShape::kPerLayer), 3, 2);
  }
}

TEST_CASE("no policy beats Belady on demand fetches with slots of two sizes") {
  for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer}) {
    require_never_beaten({4, 8, 1, {100, 300, 100, 300}, 4800, pool}, 3, 3);
  }
}

TEST_CASE("where a set does not fit into the cache Belady can be beaten") {
  // After {0}, 1 and 4 are used next at the same time. Belady drops 1. The third set, too large for
  // two slots, then hits 4 and 0 and has no room for 1, which the last one would want.
  std::vector<Routing> trace;
  for (const std::vector<int>& used : {std::vector{1, 4, 0}, {0}, {1, 4, 0}, {1, 2, 0}}) {
    trace.push_back(routing(0, experts(used)));
  }
  CHECK(replay(trace, shape_of(1, 5, 2), {"belady"}).misses == 7);
  CHECK(replay(trace, shape_of(1, 5, 2), {"lru"}).misses == 6);
}

constexpr int kLayers = 6;
constexpr int kTopK = 2;
constexpr int kExperts = 8;

std::vector<Routing> tokens(bool always_the_same) {
  std::mt19937 random(8);
  std::vector<Routing> trace;
  for (int t = 0; t < 200 * kLayers; ++t) {
    trace.push_back(draw_routing(random, t % kLayers, kExperts, 1, kTopK));
    if (always_the_same) trace.back() = routing(t % kLayers, experts({1, 5}));
  }
  return trace;
}

TEST_CASE("below one token's cycle a global LRU hits 0 %") {
  for (const bool always_the_same : {false, true}) {
    const auto trace = tokens(always_the_same);
    // Between two visits of a layer all others bring in theirs.
    for (int slots = kTopK; slots <= (kLayers - 1) * kTopK; ++slots) {
      CAPTURE(always_the_same, slots);
      CHECK(replay(trace, shape_of(kLayers, kExperts, slots), {"lru"}).hits == 0);
    }
  }
}

TEST_CASE("below one token's cycle layer-LRU hits, and as often as Belady if tokens repeat") {
  for (int slots = kTopK + 1; slots <= (kLayers - 1) * kTopK; ++slots) {
    CAPTURE(slots);
    const CacheShape shape = shape_of(kLayers, kExperts, slots);
    CHECK(replay(tokens(false), shape, {"layer-lru"}).hits > 0);
    const CacheStats repeated = replay(tokens(true), shape, {"layer-lru"});
    CHECK(repeated.hits == replay(tokens(true), shape, {"belady"}).hits);
  }
}

}  // namespace
}  // namespace tandem::test
