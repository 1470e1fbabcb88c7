#include "scheduler/replay.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "scheduler/synthetic_trace.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// [token][layer][top_k] ids, each token a decode step of its own.
using Ids = std::vector<std::vector<std::vector<int>>>;

Trace trace_of(int n_experts, const Ids& ids) {
  Trace trace;
  trace.header.n_layers = static_cast<int32_t>(ids[0].size());
  trace.header.n_experts = n_experts;
  trace.header.top_k = static_cast<int32_t>(ids[0][0].size());
  trace.header.n_ranks = trace.header.top_k;
  for (size_t t = 0; t < ids.size(); ++t) {
    trace.steps.push_back({0, false, static_cast<int64_t>(t), 1});
    for (const auto& layer : ids[t]) {
      for (size_t k = 0; k < layer.size(); ++k) {
        trace.ids.push_back(static_cast<int16_t>(layer[k]));
        trace.weights.push_back(1.0F / static_cast<float>(k + 2));
      }
    }
  }
  return trace;
}

std::vector<SimStep> all_steps(const Trace& trace) {
  std::vector<SimStep> steps;
  for (int32_t t = 0; t < trace.n_tokens(); ++t) steps.push_back({{t}, t, true});
  return steps;
}

// Slots of 100 bytes.
ReplayInput input_of(const Trace& trace, int slots, const std::string& policy) {
  ReplayInput input;
  input.trace = &trace;
  input.expert_bytes.assign(static_cast<size_t>(trace.header.n_layers), 100);
  input.capacity_bytes = int64_t{100} * slots;
  input.policy = policy;
  input.steps = all_steps(trace);
  return input;
}

Ids draw(std::mt19937& random, int n_tokens, int n_layers, int n_experts, int top_k) {
  Ids ids(static_cast<size_t>(n_tokens));
  for (auto& token : ids) {
    for (int l = 0; l < n_layers; ++l) {
      std::vector<int>& used = token.emplace_back();
      while (used.size() < static_cast<size_t>(top_k)) {
        const int e = static_cast<int>(std::min(random() % n_experts, random() % n_experts));
        if (std::find(used.begin(), used.end(), e) == used.end()) used.push_back(e);
      }
    }
  }
  return ids;
}

// The least misses of all choices, by trying every set of residents after every event. Experts of
// all layers are bits of a mask. bypass: who was asked for need not stay.
uint64_t fewest_misses(const Ids& ids, int n_experts, int slots, bool bypass) {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> least(size_t{1} << (static_cast<size_t>(n_experts) * ids[0].size()),
                              kNever);
  least[0] = 0;
  for (const auto& token : ids) {
    for (size_t l = 0; l < token.size(); ++l) {
      uint32_t asked = 0;
      for (const int e : token[l]) asked |= 1U << (l * static_cast<size_t>(n_experts) + e);
      std::vector<uint64_t> next(least.size(), kNever);
      for (uint32_t before = 0; before < least.size(); ++before) {
        if (least[before] == kNever) continue;
        const uint64_t misses =
            least[before] + static_cast<uint64_t>(std::popcount(asked & ~before));
        const uint32_t free = bypass ? before | asked : before & ~asked;
        for (uint32_t kept = free;; kept = (kept - 1) & free) {
          const uint32_t after = bypass ? kept : asked | kept;
          if (std::popcount(after) <= slots) next[after] = std::min(next[after], misses);
          if (kept == 0) break;
        }
      }
      least = std::move(next);
    }
  }
  return *std::min_element(least.begin(), least.end());
}

Trace synthetic(uint64_t seed) {
  SyntheticTraceSettings settings;
  settings.n_layers = 5;
  settings.n_experts = 16;
  settings.top_k = 3;
  settings.n_sequences = 3;
  settings.n_prompt = 12;
  settings.n_decode = 60;
  settings.seed = seed;
  return make_synthetic_trace(settings);
}

}  // namespace

TEST_CASE("a toy trace replays to what one works out by hand") {
  // One layer, two slots. LRU: 0 1 | 0: hit, 2: 1 leaves | 1: 0 leaves, 2: hit | 0: 1 leaves.
  const Trace trace = trace_of(3, {{{0}}, {{1}}, {{0}}, {{2}}, {{1}}, {{2}}, {{0}}});
  const CacheStats lru = replay(input_of(trace, 2, "lru")).warm;
  CHECK(lru.hits == 2);
  CHECK(lru.misses == 5);
  CHECK(lru.inserts == 5);
  CHECK(lru.evictions == 3);
  // Belady: 2 displaces 0, which is wanted last; then 1 and 2 hit.
  const CacheStats belady = replay(input_of(trace, 2, "belady")).warm;
  CHECK(belady.hits == 3);
  CHECK(belady.misses == 4);
}

TEST_CASE("a replay with Belady misses as often as the best of all possible evictions") {
  std::mt19937 random(1966);
  for (int round = 0; round < 30; ++round) {
    const int n_layers = 1 + round % 2;
    const int n_experts = 8 / n_layers;
    const int slots = 3 + round % 3;
    const Ids ids = draw(random, 20, n_layers, n_experts, 2);
    const Trace trace = trace_of(n_experts, ids);
    CAPTURE(round, slots);
    ReplayInput input = input_of(trace, slots, "belady");
    CHECK(replay(input).warm.misses == fewest_misses(ids, n_experts, slots, false));
    input.admission.rule = AdmissionRule::kIfBetter;
    CHECK(replay(input).warm.misses >= fewest_misses(ids, n_experts, slots, true));
  }
}

TEST_CASE("no causal policy beats Belady in a replay, whatever it learnt before") {
  for (const uint64_t seed : {1, 2, 3}) {
    const Trace trace = synthetic(seed);
    const std::vector<SimStep> steps = decode_steps(trace);
    for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer}) {
      for (const int slots : {15, 20, 40, 60}) {
        ReplayInput input = input_of(trace, slots, "belady");
        input.pool = pool;
        input.learn = learning_steps(steps);
        input.steps = measured_steps(steps);
        const CacheStats bound = replay(input).warm;
        for (const std::string_view policy : causal_policy_names()) {
          CAPTURE(policy, seed, slots);
          input.policy = policy;
          const CacheStats stats = replay(input).warm;
          CHECK(stats.misses >= bound.misses);
          CHECK(stats.hits + stats.misses == bound.hits + bound.misses);
        }
      }
    }
  }
}

TEST_CASE("forced admission takes in every miss, bypassing takes in less and refuses the rest") {
  const Trace trace = synthetic(4);
  ReplayInput input = input_of(trace, 20, "ewma");
  input.steps = one_by_one(decode_steps(trace));
  const ReplayResult forced = replay(input);
  CHECK(forced.warm.inserts == forced.warm.misses);
  CHECK(forced.warm.refused == 0);
  input.admission.rule = AdmissionRule::kIfBetter;
  const ReplayResult bypass = replay(input);
  CHECK(bypass.warm.refused > 0);
  CHECK(bypass.warm.inserts + bypass.warm.refused == bypass.warm.misses);
}

TEST_CASE("a prompt asks a layer for each expert once, its tokens one by one for each use") {
  const Trace trace = trace_of(4, {{{0, 1}}, {{1, 2}}, {{1, 0}}});
  ReplayInput input = input_of(trace, 4, "lru");
  input.steps = {{{0, 1}, 0, false}, {{2}, 2, true}};
  const ReplayResult together = replay(input);
  CHECK(together.cold.misses == 3);
  CHECK(together.cold.hits == 0);
  CHECK(together.warm.hits == 2);
  input.steps = one_by_one(input.steps);
  REQUIRE(input.steps.size() == 3);
  const ReplayResult apart = replay(input);
  CHECK(apart.cold.misses == 3);
  CHECK(apart.cold.hits == 1);
  CHECK(apart.warm.hits == 2);
}

TEST_CASE("a replay starts with the experts that its lessons used most") {
  const Trace trace = trace_of(4, {{{3, 2}}, {{3, 1}}, {{2, 3}}, {{3, 2}}});
  ReplayInput input = input_of(trace, 2, "lfu");
  input.learn = {{{0}, 0, false}, {{1}, 1, false}, {{2}, 2, false}};
  input.steps = {{{3}, 3, true}};
  CHECK(replay(input).warm.hits == 2);
  input.learn.clear();
  CHECK(replay(input).warm.hits == 0);
}

}  // namespace tandem::test
