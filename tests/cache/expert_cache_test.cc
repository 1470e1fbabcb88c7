// Accesses: what commit() promises.
#include "cache/expert_cache.h"

#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

const CacheShape kShape = shape_of(2, 8, 4);

TEST_CASE("a new cache holds nobody") {
  const ExpertCache cache = make_cache(kShape);
  CHECK(cache.n_slots() == 4);
  CHECK(cache.resident() == 0);
  for (int layer = 0; layer < kShape.n_layers; ++layer) {
    CHECK(cache.slots_of(LayerId{layer}).empty());
    for (int e = 0; e < kShape.n_experts; ++e) CHECK_FALSE(cache.find(key(layer, e)).valid());
  }
  for (int s = 0; s < cache.n_slots(); ++s) {
    CHECK_FALSE(cache.occupant(SlotId{s}).expert.valid());
  }
}

TEST_CASE("an inserted expert is found in the slot that commit names") {
  ExpertCache cache = make_cache(kShape);
  const auto slots = commit(cache, 1, {5, 3}, {5, 3});
  CHECK(cache.find(key(1, 5)) == slots[0]);
  CHECK(cache.find(key(1, 3)) == slots[1]);
  CHECK(cache.occupant(slots[0]) == key(1, 5));
}

TEST_CASE("the same expert of another layer is another expert") {
  ExpertCache cache = make_cache(kShape);
  commit(cache, 0, {2}, {2});
  CHECK(cache.find(key(0, 2)).valid());
  CHECK_FALSE(cache.find(key(1, 2)).valid());
}

TEST_CASE("empty slots are given away before anybody is evicted") {
  ExpertCache cache = make_cache(kShape);
  for (int e = 0; e < 4; ++e) commit(cache, 0, {e}, {e});
  CHECK(cache.stats().evictions == 0);
  CHECK(cache.resident() == 4);
}

TEST_CASE("an evicted expert is absent and its slot has the new occupant") {
  ExpertCache cache = make_cache(kShape);
  for (int e = 0; e < 4; ++e) commit(cache, 0, {e}, {e});
  const auto slots = commit(cache, 1, {7}, {7});
  CHECK_FALSE(cache.find(key(0, 0)).valid());
  CHECK(cache.occupant(slots[0]) == key(1, 7));
  CHECK(cache.resident() == 4);
}

TEST_CASE("an expert that the layer uses stays while others of the layer come in") {
  const std::vector<Routing> no_future(1);
  const KnownFuture future(no_future);
  for (const auto policy : eviction_policy_names()) {
    CAPTURE(policy);
    ExpertCache cache = make_cache(kShape, {std::string(policy)}, &future);
    commit(cache, 0, {0, 1, 2, 3}, {0, 1, 2, 3});
    // Everybody else was used more often and more recently than 0.
    for (int i = 0; i < 5; ++i) commit(cache, 0, {1, 2, 3}, {});
    commit(cache, 0, {4, 5, 6, 0}, {4, 5, 6});
    CHECK(cache.find(key(0, 0)).valid());
    for (const int gone : {1, 2, 3}) CHECK_FALSE(cache.find(key(0, gone)).valid());
  }
}

TEST_CASE("an expert that came in with this access is not evicted by the next one in it") {
  const std::vector<Routing> no_future(1);
  const KnownFuture future(no_future);
  for (const auto policy : eviction_policy_names()) {
    CAPTURE(policy);
    ExpertCache cache = make_cache(shape_of(1, 8, 2), {std::string(policy)}, &future);
    commit(cache, 0, {0, 1}, {0, 1});
    for (int i = 0; i < 5; ++i) commit(cache, 0, {0, 1}, {});
    const auto slots = commit(cache, 0, {2, 3}, {2, 3});
    CHECK(slots[0] != slots[1]);
    CHECK(cache.find(key(0, 2)).valid());
    CHECK(cache.find(key(0, 3)).valid());
  }
}

TEST_CASE("a layer's experts may leave from the next access on") {
  ExpertCache cache = make_cache(shape_of(1, 8, 2));
  commit(cache, 0, {0, 1}, {0, 1});
  commit(cache, 0, {2, 3}, {2, 3});
  commit(cache, 0, {4, 5}, {4, 5});
  CHECK(cache.find(key(0, 4)).valid());
  CHECK(cache.find(key(0, 5)).valid());
}

TEST_CASE("room beside is all slots but those of the used experts that are resident") {
  ExpertCache cache = make_cache(kShape);
  commit(cache, 0, {0, 1, 2}, {0, 1, 2});
  CHECK(cache.room_beside(LayerId{0}, experts({})) == 4);
  CHECK(cache.room_beside(LayerId{0}, experts({0, 2, 7})) == 2);
  CHECK(cache.room_beside(LayerId{1}, experts({0, 2, 7})) == 4);
}

TEST_CASE("a cache without slots has no room and never holds anybody") {
  ExpertCache cache = make_cache(shape_of(1, 4, 0));
  CHECK(cache.n_slots() == 0);
  CHECK(cache.room_beside(LayerId{0}, experts({0, 1})) == 0);
  CHECK_FALSE(cache.offer(LayerId{0}, true).slot.valid());
  commit(cache, 0, {0, 1}, {});
  CHECK(cache.stats().misses == 2);
  CHECK(cache.resident() == 0);
}

TEST_CASE("hits and misses are counted against the state before the access") {
  ExpertCache cache = make_cache(kShape);
  commit(cache, 0, {0, 1}, {0, 1});
  CHECK(cache.stats().hits == 0);
  CHECK(cache.stats().misses == 2);
  commit(cache, 0, {1, 2, 3}, {2});
  CHECK(cache.stats().hits == 1);
  CHECK(cache.stats().misses == 4);
  CHECK(cache.stats().inserts == 3);
}

TEST_CASE("an expert of which some pieces are there is a miss, and counted as partly there") {
  CacheShape shape = kShape;
  shape.pieces = 4;
  ExpertCache cache = make_cache(shape);
  const auto slots = commit(cache, routing(0, experts({0, 1, 2})), experts({0, 1, 2}));
  cache.set_pieces(slots[0], 4, 0);
  cache.set_pieces(slots[1], 3, 0);
  cache.reset_stats();
  commit(cache, 0, {0, 1, 2, 3}, {});
  CHECK(cache.stats().hits == 1);
  CHECK(cache.stats().misses == 3);
  CHECK(cache.stats().partly == 1);
}

TEST_CASE("resetting the statistics keeps the residents") {
  ExpertCache cache = make_cache(kShape);
  commit(cache, 0, {0, 1}, {0, 1});
  cache.reset_stats();
  CHECK(cache.stats().misses == 0);
  CHECK(cache.stats().inserts == 0);
  commit(cache, 0, {0, 1}, {});
  CHECK(cache.stats().hits == 2);
}

TEST_CASE("committing a resident expert as incoming fails a check") {
  ExpertCache cache = make_cache(kShape);
  commit(cache, 0, {3}, {3});
  CHECK(dies([&] { commit(cache, 0, {3}, {3}); }, "has a slot already"));
}

TEST_CASE("committing the same expert twice in one access fails a check") {
  ExpertCache cache = make_cache(kShape);
  CHECK(dies([&] { commit(cache, 0, {3}, {3, 3}); }, "has a slot already"));
}

TEST_CASE("committing more incoming experts than fit beside the used ones fails a check") {
  ExpertCache cache = make_cache(shape_of(1, 8, 3));
  commit(cache, 0, {0, 1, 2}, {0, 1, 2});
  CHECK(dies([&] { commit(cache, 0, {0, 1, 3, 4}, {3, 4}); }, "no slot"));
  CHECK_FALSE(dies([&] { commit(cache, 0, {0, 1, 3, 4}, {3}); }));
}

TEST_CASE("an access whose spans differ in length fails a check") {
  ExpertCache cache = make_cache(kShape);
  const Routing r = routing(0, experts({0, 1}));
  std::vector<SlotId> slots(1);
  CHECK(dies([&] { cache.commit({r.use(), r.used, slots}); }, "2 incoming"));
}

TEST_CASE("a layer or an expert outside the shape fails a check") {
  const ExpertCache cache = make_cache(kShape);
  for (const ExpertKey bad : {key(2, 0), key(-1, 0), key(0, 8), key(0, -1)}) {
    CHECK(dies([&] { static_cast<void>(cache.find(bad)); }));
  }
}

TEST_CASE("a cache without a policy, layers, sizes or pieces fails a check") {
  CHECK(dies([] { const ExpertCache cache(kShape, nullptr); }, "policy"));
  const auto fails = [](CacheShape shape, auto change, const char* words) {
    change(shape);
    return dies([&] { const ExpertCache cache(shape, make_policy({"lru"}, 2, 8)); }, words);
  };
  CHECK(fails(
      kShape, [](CacheShape& s) { s.n_layers = 0, s.expert_bytes.clear(); }, "0 layers"));
  CHECK(fails(
      kShape, [](CacheShape& s) { s.expert_bytes.pop_back(); }, "1 sizes for 2 layers"));
  CHECK(fails(
      kShape, [](CacheShape& s) { s.expert_bytes[1] = 0; }, "0 bytes"));
  CHECK(fails(
      kShape, [](CacheShape& s) { s.pieces = 0; }, "0 pieces"));
}

}  // namespace
}  // namespace tandem::test
