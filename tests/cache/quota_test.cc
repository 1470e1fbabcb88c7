// Quotas that follow the routing: which move is chosen, what always holds, and what it is worth.
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "cache/quota_adapter.h"
#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int kObserved = QuotaAdapter::kObserved;

void visit(QuotaAdapter* adapter, int layer, int times, double absent, double resident) {
  for (int i = 0; i < times; ++i) adapter->note(LayerId{layer}, absent, resident);
}

const QuotaAdapter::Layer kBoth{0, true, true};

std::vector<int32_t> quotas(const ExpertCache& cache) {
  std::vector<int32_t> out;
  for (int l = 0; l < cache.shape().n_layers; ++l) out.push_back(cache.quota(LayerId{l}));
  return out;
}

// Two layers of 16 experts, top 2. Layer 0 draws them evenly; layer 1 always wants the same two but
// for one token in ten.
std::vector<Routing> uneven_trace(int n_tokens) {
  std::mt19937 random(11);
  std::vector<Routing> trace;
  for (int t = 0; t < n_tokens; ++t) {
    const int first = static_cast<int>(random() % 16);
    const int second = (first + 1 + static_cast<int>(random() % 15)) % 16;
    trace.push_back(routing(0, experts({first, second})));
    const bool other = random() % 10 == 0;
    trace.push_back(routing(1, experts({0, other ? 2 + static_cast<int>(random() % 14) : 1})));
  }
  return trace;
}

}  // namespace

TEST_CASE("a slot goes from the layer that loses least to the layer that gains most") {
  QuotaAdapter adapter(4);
  visit(&adapter, 0, kObserved, 1, 2);
  visit(&adapter, 1, kObserved, 3, 3);
  visit(&adapter, 2, kObserved, 0, 0);
  visit(&adapter, 3, kObserved, 2, 1);
  const auto move = adapter.next(std::vector(4, kBoth));
  REQUIRE(move);
  CHECK(move->from == LayerId{2});
  CHECK(move->to == LayerId{1});
}

TEST_CASE("what is gained must exceed what is lost by a quarter") {
  for (const int gained : {5, 6}) {
    QuotaAdapter adapter(2);
    visit(&adapter, 0, kObserved, gained, gained);
    visit(&adapter, 1, kObserved, 0, 4);
    CHECK(adapter.next(std::vector(2, kBoth)).has_value() == (gained > 5));
  }
}

TEST_CASE("a layer takes part only after it has been observed, and is observed anew after a move") {
  QuotaAdapter adapter(2);
  visit(&adapter, 0, kObserved, 3, 3);
  visit(&adapter, 1, kObserved - 1, 0, 0);
  CHECK_FALSE(adapter.next(std::vector(2, kBoth)));
  visit(&adapter, 1, 1, 0, 0);
  REQUIRE(adapter.next(std::vector(2, kBoth)));
  CHECK_FALSE(adapter.next(std::vector(2, kBoth)));
  visit(&adapter, 0, kObserved - 1, 3, 3);
  visit(&adapter, 1, kObserved - 1, 0, 0);
  CHECK_FALSE(adapter.next(std::vector(2, kBoth)));
  visit(&adapter, 0, 1, 3, 3);
  visit(&adapter, 1, 1, 0, 0);
  CHECK(adapter.next(std::vector(2, kBoth)));
}

TEST_CASE("slots stay with experts of their size, and with layers that may not give or take") {
  QuotaAdapter adapter(3);
  visit(&adapter, 0, kObserved, 3, 0);
  visit(&adapter, 1, kObserved, 2, 0);
  visit(&adapter, 2, kObserved, 0, 0);
  const QuotaAdapter::Layer other{1, true, true};
  CHECK_FALSE(adapter.next(std::vector{kBoth, other, QuotaAdapter::Layer{0, true, false}}));
  CHECK_FALSE(adapter.next(std::vector{QuotaAdapter::Layer{0, false, true}, other, kBoth}));
  const auto move = adapter.next(std::vector{QuotaAdapter::Layer{0, false, false}, kBoth, kBoth});
  REQUIRE(move);
  CHECK(move->to == LayerId{1});
  CHECK(move->from == LayerId{2});
}

TEST_CASE("what was seen long ago fades") {
  QuotaAdapter adapter(2);
  visit(&adapter, 0, QuotaAdapter::kMemory, 4, 0);
  visit(&adapter, 1, QuotaAdapter::kMemory, 0, 1);
  // Then the roles change.
  visit(&adapter, 0, 10 * QuotaAdapter::kMemory, 0, 4);
  visit(&adapter, 1, 10 * QuotaAdapter::kMemory, 6, 0);
  const auto move = adapter.next(std::vector(2, kBoth));
  REQUIRE(move);
  CHECK(move->to == LayerId{1});
}

TEST_CASE("quotas always share out all slots, one moves at most, and only behind the last layer") {
  std::mt19937 random(23);
  int moves = 0;
  for (int round = 0; round < 40; ++round) {
    const CacheShape shape{4, 12, 1, {100, 200, 100, 100}, 100 * (6 + round), PoolShape::kAdapted};
    const int top_k = 1 + round % 3;
    ExpertCache cache = make_cache(shape, {round % 2 == 0 ? "lru" : "ewma"});
    ExpertCache again = make_cache(shape, {round % 2 == 0 ? "lru" : "ewma"});
    const std::vector<int32_t> first = quotas(cache);
    for (int t = 0; t < 400; ++t) {
      const int layer = t % 4;
      const Routing r = draw_routing(random, layer, 1 + layer * 3 + 2, 1, std::min(top_k, 3));
      const std::vector<int32_t> before = quotas(cache);
      serve(cache, r);
      serve(again, r);
      const std::vector<int32_t> after = quotas(cache);
      REQUIRE(after == quotas(again));
      int changed = 0;
      for (int l = 0; l < 4; ++l) {
        const auto at = static_cast<size_t>(l);
        changed += std::abs(after[at] - before[at]);
        REQUIRE(static_cast<int32_t>(cache.slots_of(LayerId{l}).size()) <= after[at]);
        if (l != 1) REQUIRE(after[at] >= std::min(top_k, std::min({first[0], first[2], first[3]})));
        REQUIRE(after[at] <= 12);
      }
      REQUIRE(after[1] == first[1]);  // the only layer of its size
      REQUIRE(std::accumulate(after.begin(), after.end(), 0) ==
              std::accumulate(first.begin(), first.end(), 0));
      REQUIRE((changed == 0 || (changed == 2 && layer == 3)));
      moves += changed / 2;
    }
  }
  CHECK(moves > 100);
}

TEST_CASE("where one layer needs many experts and another few, adapted quotas miss less often") {
  const std::vector<Routing> trace = uneven_trace(600);
  for (const char* policy : {"lru", "lfru", "ewma"}) {
    CAPTURE(policy);
    const CacheStats fixed = replay(trace, shape_of(2, 16, 12, PoolShape::kPerLayer), {policy});
    ExpertCache cache = make_cache(shape_of(2, 16, 12, PoolShape::kAdapted), {policy});
    for (const Routing& r : trace) serve(cache, r);
    // Six of 16 even draws hit 37.5 %, nine 56 %.
    CHECK(cache.stats().misses < fixed.misses * 9 / 10);
    CHECK(cache.quota(LayerId{0}) >= 9);
    CHECK(cache.quota(LayerId{1}) >= 2);
  }
}

}  // namespace tandem::test
