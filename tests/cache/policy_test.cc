#include <algorithm>
#include <vector>

#include "cache/eviction_policy.h"
#include "tests/cache/cache_testing.h"
#include "tests/cache/policy_definitions.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

bool holds(const ExpertCache& cache, int layer, int expert) {
  return cache.find(key(layer, expert)).valid();
}

TEST_CASE("the names of the policies are sorted, and each one can be made where the future is") {
  const std::vector<Routing> none(1);
  const KnownFuture future(none);
  const auto names = eviction_policy_names();
  CHECK(std::is_sorted(names.begin(), names.end()));
  for (const auto* name : {"belady", "cost-aware", "ewma", "layer-lru", "learned", "lfru", "lfu",
                           "lru", "mrs", "static", "windowed-belady"}) {
    CHECK(std::find(names.begin(), names.end(), name) != names.end());
  }
  for (const auto name : names) {
    CHECK(make_eviction_policy(name, {2, 8, &future, {}}) != nullptr);
  }
}

TEST_CASE("a policy that needs the future cannot be made without one, all others can") {
  const auto causal = causal_policy_names();
  for (const auto name : eviction_policy_names()) {
    const bool can = std::find(causal.begin(), causal.end(), name) != causal.end();
    CHECK((make_eviction_policy(name, {2, 8, nullptr, {}}) != nullptr) == can);
    CHECK(find_eviction_policy(name)->needs_future == !can);
  }
}

TEST_CASE("an unknown policy name gives no policy") {
  for (const auto* name : {"", "LRU", "lru ", "least-stale"}) {
    CHECK(find_eviction_policy(name) == nullptr);
    CHECK(make_eviction_policy(name, {2, 8, nullptr, {}}) == nullptr);
  }
}

TEST_CASE("a policy's standard parameters lie between its least and most") {
  for (const PolicyInfo& info : eviction_policies()) {
    for (const PolicyParameter& p : info.parameters) {
      CAPTURE(info.name, p.name);
      CHECK(p.least <= p.standard);
      CHECK(p.standard <= p.most);
    }
  }
}

TEST_CASE("LRU evicts the expert that was used longest ago, whatever its layer") {
  ExpertCache cache = make_cache(shape_of(2, 8, 3), {"lru"});
  for (const auto& [layer, e] : {std::pair{0, 1}, {1, 2}, {0, 3}}) serve(cache, layer, {e});
  serve(cache, 0, {1});
  serve(cache, 1, {7});
  CHECK_FALSE(holds(cache, 1, 2));
  serve(cache, 1, {6});
  CHECK_FALSE(holds(cache, 0, 3));
}

TEST_CASE("within one access LRU, LFU and layer-LRU hold the lighter expert to be older") {
  for (const Choice& choice : {Choice{"lru"}, {"lfu", {0}}, {"layer-lru"}}) {
    CAPTURE(choice.policy);
    ExpertCache cache = make_cache(shape_of(2, 8, 3), choice);
    serve(cache, 0, {4, 2, 6});  // heaviest first
    commit(cache, 1, {}, {});
    for (const int e : {6, 2, 4}) {
      const SlotId slot = cache.offer(LayerId{1}).slot;
      CHECK(cache.occupant(slot) == key(0, e));
      cache.protect(slot, true);
    }
  }
}

TEST_CASE("LFU evicts the expert with the fewest uses, however recent they are") {
  ExpertCache cache = make_cache(shape_of(2, 8, 2), {"lfu", {0}});
  for (int i = 0; i < 3; ++i) serve(cache, 0, {1});
  serve(cache, 0, {2});
  serve(cache, 0, {2});
  serve(cache, 1, {5});
  CHECK(holds(cache, 0, 1));
  CHECK_FALSE(holds(cache, 0, 2));
}

TEST_CASE("among equal counts LFU evicts the expert used longest ago") {
  ExpertCache cache = make_cache(shape_of(2, 8, 2), {"lfu", {0}});
  serve(cache, 0, {1});
  serve(cache, 0, {2});
  serve(cache, 0, {2});
  serve(cache, 0, {1});
  serve(cache, 1, {5});
  CHECK_FALSE(holds(cache, 0, 2));
}

TEST_CASE("LFU tells experts of equal counts apart after a million uses") {
  ExpertCache cache = make_cache(shape_of(1, 8, 2), {"lfu", {0}});
  // A hundred tokens at once, ten thousand times; the tie is decided by the last two visits.
  Routing both = routing(0, experts({1, 2}));
  both.n_tokens = 100;
  both.ranked.clear();
  for (int t = 0; t < 100; ++t) {
    for (const int e : {1, 2}) both.ranked.push_back(ExpertId{e});
  }
  both.scores.assign(200, 0.5F);
  commit(cache, both, experts({1, 2}));
  for (int i = 0; i < 10000; ++i) commit(cache, both, {});
  commit(cache, 0, {2}, {});
  commit(cache, 0, {1}, {});
  serve(cache, 0, {3});
  CHECK_FALSE(holds(cache, 0, 2));
}

TEST_CASE("LFU that ages forgets a subject that is over, LFU that does not clings to it") {
  for (const auto& [half_life, stays] : {std::pair{4.0, false}, {0.0, true}}) {
    ExpertCache cache = make_cache(shape_of(1, 8, 2), {"lfu", {half_life}});
    for (int i = 0; i < 20; ++i) serve(cache, 0, {1});
    for (int i = 0; i < 15; ++i) serve(cache, 0, {2});
    for (int i = 0; i < 2; ++i) serve(cache, 0, {3});
    CHECK(holds(cache, 0, 1) == stays);
    CHECK(holds(cache, 0, 2) == !stays);
  }
}

TEST_CASE("LFU counts outlive eviction") {
  ExpertCache cache = make_cache(shape_of(1, 8, 2), {"lfu", {0}});
  for (int i = 0; i < 4; ++i) serve(cache, 0, {1});
  for (int i = 0; i < 5; ++i) serve(cache, 0, {2});
  for (int i = 0; i < 5; ++i) serve(cache, 0, {3});  // evicts 1, then overtakes it
  REQUIRE_FALSE(holds(cache, 0, 1));
  serve(cache, 0, {1});  // its fifth use; 2 has five, older
  REQUIRE_FALSE(holds(cache, 0, 2));
  serve(cache, 0, {1});  // six uses now, 3 has five
  serve(cache, 0, {4});
  CHECK(holds(cache, 0, 1));
  CHECK_FALSE(holds(cache, 0, 3));
}

TEST_CASE("LFU counts the uses of an expert that is absent") {
  ExpertCache cache = make_cache(shape_of(1, 8, 2), {"lfu", {0}});
  for (int i = 0; i < 5; ++i) commit(cache, 0, {1}, {});
  commit(cache, 0, {1}, {1});
  for (int i = 0; i < 3; ++i) serve(cache, 0, {2});
  serve(cache, 0, {3});
  CHECK(holds(cache, 0, 1));
  CHECK_FALSE(holds(cache, 0, 2));
}

TEST_CASE("MRS keeps an expert that is often a runner-up, though it is never used") {
  const Routing favours_two{0, 1, 1, 3, experts({1}), experts({1, 2, 3}), {0.5F, 0.4F, 0.1F}};
  const auto policy = make_policy({"mrs"}, 1, 8);
  policy->on_use(favours_two.use());
  CHECK(policy->value(key(0, 1)) == Approx(0.25));
  CHECK(policy->value(key(0, 2)) == Approx(0.2));
  CHECK(policy->value(key(0, 3)) == 0.0);  // the third score is not among the best 2 x top-k
  policy->on_use(favours_two.use());
  CHECK(policy->value(key(0, 2)) == Approx(0.5 * 0.4 + 0.5 * 0.2));
}

TEST_CASE("two-rate use falls at both rates when an expert is used no more") {
  const auto policy = make_policy({"ewma", {0.5, 0.1, 0.25}}, 1, 8);
  policy->on_use(routing(0, experts({3})).use());
  CHECK(policy->value(key(0, 3)) == Approx(0.25 * 0.5 + 0.75 * 0.1));
  policy->on_use(routing(0, experts({4})).use());
  CHECK(policy->value(key(0, 3)) == Approx(0.25 * 0.25 + 0.75 * 0.09));
}

TEST_CASE("cost-aware eviction weighs the rate with the layer's cost, unless told not to") {
  for (const auto& [weigh, first] : {std::pair{1.0, key(1, 2)}, {0.0, key(0, 2)}}) {
    const Choice choice{"cost-aware", {0.25, 0.01, 0.25, 0, weigh}, {3.0, 1.0}};
    ExpertCache cache = make_cache(shape_of(2, 8, 2), choice);
    commit(cache, 0, {2}, {2});
    commit(cache, 1, {2}, {2});
    commit(cache, 1, {2}, {});
    commit(cache, 0, {}, {});
    CHECK(cache.occupant(cache.offer(LayerId{0}).slot) == first);
  }
}

TEST_CASE("costs for another number of layers fail a check") {
  CHECK(dies([] { make_policy({"cost-aware", {}, {1, 2, 3}}, 2, 8); }, "3 costs for 2 layers"));
}

TEST_CASE("a window without end ranks like Belady wherever there is a next use") {
  std::mt19937 random(11);
  std::vector<Routing> trace;
  trace.reserve(60);
  for (int t = 0; t < 60; ++t) trace.push_back(draw_routing(random, t % 3, 8, 1, 2));
  KnownFuture future(trace);
  const auto belady = make_policy({"belady"}, 3, 8, &future);
  const auto windowed = make_policy({"windowed-belady", {1e6, 0.25, 0.01, 0.25}}, 3, 8, &future);
  for (size_t t = 0; t < trace.size(); ++t) {
    future.move_to(t);
    windowed->on_use(trace[t].use());
    std::vector<ExpertKey> keys;
    for (int i = 0; i < 24; ++i) {
      if (std::isfinite(belady->value(key(i / 8, i % 8)))) keys.push_back(key(i / 8, i % 8));
    }
    const auto by = [](const EvictionPolicy& policy) {
      return [&](ExpertKey a, ExpertKey b) { return policy.value(a) < policy.value(b); };
    };
    auto want = keys;
    std::stable_sort(want.begin(), want.end(), by(*belady));
    std::stable_sort(keys.begin(), keys.end(), by(*windowed));
    REQUIRE(keys == want);
  }
}

// Values that are a formula, against the formula.
void compare_values(const Choice& choice, int most_tokens) {
  constexpr int kLayers = 3;
  std::mt19937 random(21);
  std::vector<Routing> events;
  for (int t = 0; t < 80; ++t) {
    const int n_tokens = 1 + static_cast<int>(random() % static_cast<unsigned>(most_tokens));
    events.push_back(draw_routing(random, static_cast<int>(random() % kLayers), 8, n_tokens, 2));
  }
  const Definition definition(choice, kLayers, events);
  const auto policy = make_policy(choice, kLayers, 8);
  for (size_t t = 0; t < events.size(); ++t) {
    policy->on_use(events[t].use());
    for (int i = 0; i < kLayers * 8; ++i) {
      const auto want = static_cast<double>(definition.worth(key(i / 8, i % 8), t).first);
      CAPTURE(choice.policy, choice.values, t, i);
      REQUIRE(policy->value(key(i / 8, i % 8)) == Approx(want).epsilon(1e-12).margin(1e-300));
    }
  }
}

TEST_CASE("MRS is the moving average of the best scores, token by token of a prompt") {
  for (const std::vector<double>& values :
       {std::vector<double>{0.5, 2}, {0.5, 1}, {0.3, 2}, {0.9, 64}, {0.5, 1.5}}) {
    for (const int tokens : {1, 9}) compare_values({"mrs", values}, tokens);
  }
}

TEST_CASE("two-rate use is a mix of two moving averages, token by token of a prompt") {
  for (const std::vector<double>& values :
       {std::vector<double>{0.25, 0.01, 0.25}, {0.5, 0.1, 0.7, 0.4}, {1, 0.01, 0.5, 1}}) {
    for (const int tokens : {1, 9}) compare_values({"ewma", values}, tokens);
  }
}

TEST_CASE("cost-aware values are two-rate use times the layer's cost") {
  for (const double weigh : {0.0, 1.0}) {
    compare_values({"cost-aware", {0.25, 0.01, 0.25, 0.4, weigh}, {1, 3.5, 0.25}}, 9);
  }
}

TEST_CASE("LFRU is the aged count over the visits since the last use and one") {
  for (const double half_life : {0.0, 4.0, 256.0}) {
    for (const int tokens : {1, 9}) compare_values({"lfru", {half_life}}, tokens);
  }
}

TEST_CASE("a prompt cut into other steps leaves the same counts, rates and scores") {
  std::mt19937 random(5);
  const Routing whole = draw_routing(random, 0, 8, 12, 2);
  for (const Choice& choice : {Choice{"lfu", {8}}, {"mrs"}, {"ewma"}, {"cost-aware"}}) {
    const auto at_once = make_policy(choice, 1, 8);
    const auto in_steps = make_policy(choice, 1, 8);
    at_once->on_use(whole.use());
    const auto n = static_cast<size_t>(whole.n_ranks);
    for (size_t t = 0; t < 12; ++t) {
      LayerUse token = whole.use();
      token.n_tokens = 1;
      token.ranked = token.ranked.subspan(t * n, n);
      token.scores = token.scores.subspan(t * n, n);
      token.used = token.ranked.first(2);
      in_steps->on_use(token);
    }
    for (int e = 0; e < 8; ++e) {
      CAPTURE(choice.policy, e);
      CHECK(in_steps->value(key(0, e)) ==
            Approx(at_once->value(key(0, e))).epsilon(1e-9).margin(1e-9));
    }
  }
}

}  // namespace
}  // namespace tandem::test
