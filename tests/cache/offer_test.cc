// Between accesses: offers, inserts, drops, pieces and soft protection.
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

// Layer 0 holds 0, 1, 2 and 3, the weakest first; no slot is free and nobody is in use.
ExpertCache full_cache() {
  ExpertCache cache = make_cache(shape_of(2, 8, 4));
  for (const int e : {0, 1, 2, 3}) commit(cache, 0, {e}, {e});
  commit(cache, 1, {}, {});
  return cache;
}

TEST_CASE("an offer is a free slot as long as there is one") {
  ExpertCache cache = make_cache(shape_of(2, 8, 3));
  commit(cache, 0, {0, 1}, {0, 1});
  const ExpertCache::Offer offer = cache.offer(LayerId{1});
  CHECK(offer.free);
  CHECK_FALSE(cache.occupant(offer.slot).expert.valid());
}

TEST_CASE("a full cache offers the slot of the expert with the smallest value, and the value") {
  const ExpertCache cache = full_cache();
  const ExpertCache::Offer offer = cache.offer(LayerId{1});
  CHECK_FALSE(offer.free);
  CHECK(cache.occupant(offer.slot) == key(0, 0));
  CHECK(offer.value == cache.policy().value(key(0, 0)));
}

TEST_CASE("an offer changes nothing") {
  const ExpertCache cache = full_cache();
  const SlotId slot = cache.offer(LayerId{1}).slot;
  CHECK(cache.offer(LayerId{1}).slot == slot);
  CHECK(cache.find(key(0, 0)) == slot);
  CHECK(cache.stats().evictions == 0);
}

TEST_CASE("a protected expert is not offered while another can leave") {
  ExpertCache cache = full_cache();
  cache.protect(cache.find(key(0, 0)), true);
  CHECK(cache.occupant(cache.offer(LayerId{1}).slot) == key(0, 1));
  CHECK(cache.occupant(cache.offer(LayerId{1}, true).slot) == key(0, 1));
  cache.protect(cache.find(key(0, 0)), false);
  CHECK(cache.occupant(cache.offer(LayerId{1}).slot) == key(0, 0));
}

TEST_CASE("when all are protected, demand is offered the weakest and nobody else anything") {
  ExpertCache cache = full_cache();
  for (const int e : {0, 1, 2, 3}) cache.protect(cache.find(key(0, e)), true);
  CHECK_FALSE(cache.offer(LayerId{1}).slot.valid());
  CHECK(cache.occupant(cache.offer(LayerId{1}, true).slot) == key(0, 0));
}

TEST_CASE("a commit evicts protected experts when nothing else is left") {
  ExpertCache cache = full_cache();
  for (const int e : {0, 1, 2}) cache.protect(cache.find(key(0, e)), true);
  commit(cache, 1, {6, 7}, {6, 7});
  CHECK_FALSE(cache.find(key(0, 3)).valid());
  CHECK_FALSE(cache.find(key(0, 0)).valid());
  CHECK(cache.find(key(0, 1)).valid());
}

TEST_CASE("protection ends with the eviction, and the next expert in the slot has none") {
  ExpertCache cache = full_cache();
  for (const int e : {0, 1, 2, 3}) cache.protect(cache.find(key(0, e)), true);
  commit(cache, 1, {7}, {7});
  commit(cache, 0, {}, {});
  CHECK(cache.occupant(cache.offer(LayerId{0}).slot) == key(1, 7));
}

TEST_CASE("an expert that the current layer uses is never offered, not even to demand") {
  ExpertCache cache = full_cache();
  commit(cache, 0, {0, 1, 2, 3}, {});
  CHECK_FALSE(cache.offer(LayerId{0}).slot.valid());
  CHECK_FALSE(cache.offer(LayerId{1}, true).slot.valid());
  commit(cache, 0, {0, 1, 3}, {});
  CHECK(cache.occupant(cache.offer(LayerId{1}).slot) == key(0, 2));
}

TEST_CASE("an expert that came in between accesses is found, has no pieces, and can leave again") {
  ExpertCache cache = full_cache();
  const SlotId slot = bring(cache, key(1, 5));
  CHECK(cache.find(key(1, 5)) == slot);
  CHECK(cache.pieces(slot) == 0);
  CHECK(cache.stats().inserts == 5);
  CHECK(cache.stats().evictions == 1);
  CHECK(cache.offer(LayerId{0}).slot == slot);  // never used
}

TEST_CASE("a dropped expert is absent, and its slot is the next free one") {
  ExpertCache cache = full_cache();
  const SlotId slot = cache.find(key(0, 2));
  cache.drop(slot);
  CHECK_FALSE(cache.find(key(0, 2)).valid());
  CHECK_FALSE(cache.occupant(slot).layer.valid());
  CHECK(cache.resident() == 3);
  CHECK(cache.stats().evictions == 0);
  const ExpertCache::Offer offer = cache.offer(LayerId{1});
  CHECK(offer.free);
  CHECK(offer.slot == slot);
}

TEST_CASE("an expert whose slot was reused starts again without pieces") {
  ExpertCache cache = full_cache();
  const SlotId slot = cache.find(key(0, 1));
  cache.protect(slot, true);
  cache.drop(slot);
  REQUIRE(bring(cache, key(0, 1)) == slot);
  CHECK(cache.pieces(slot) == 0);
  CHECK(cache.ready_at(slot) == 0);
  cache.reset_stats();
  commit(cache, 0, {1}, {});
  CHECK(cache.stats().misses == 1);
  CHECK(cache.stats().partly == 0);
}

TEST_CASE("dropping keeps the layer's other slots in its list") {
  ExpertCache cache = full_cache();
  cache.drop(cache.find(key(0, 0)));
  cache.drop(cache.find(key(0, 3)));
  std::vector<ExpertKey> left;
  for (const SlotId slot : cache.slots_of(LayerId{0})) left.push_back(cache.occupant(slot));
  std::sort(left.begin(), left.end());
  CHECK(left == std::vector{key(0, 1), key(0, 2)});
}

TEST_CASE("pieces and their time are what was set last") {
  CacheShape shape = shape_of(1, 4, 2);
  shape.pieces = 4;
  ExpertCache cache = make_cache(shape);
  const SlotId slot = bring(cache, key(0, 3));
  cache.set_pieces(slot, 1, 12.5);
  CHECK(cache.pieces(slot) == 1);
  CHECK(cache.ready_at(slot) == 12.5);
  cache.set_pieces(slot, 4, 25.0);
  CHECK(cache.pieces(slot) == 4);
  CHECK(cache.ready_at(slot) == 25.0);
}

TEST_CASE("fewer pieces than before, too many, or pieces of nobody fail a check") {
  CacheShape shape = shape_of(1, 4, 2);
  shape.pieces = 4;
  ExpertCache cache = make_cache(shape);
  const SlotId slot = bring(cache, key(0, 3));
  cache.set_pieces(slot, 2, 0);
  CHECK(dies([&] { cache.set_pieces(slot, 1, 0); }, "has 2 pieces, not 1"));
  CHECK(dies([&] { cache.set_pieces(slot, 5, 0); }, "has 2 pieces, not 5"));
  cache.drop(slot);
  CHECK(dies([&] { cache.set_pieces(slot, 3, 0); }));
}

TEST_CASE("inserting a resident expert, or into a slot in use or outside, fails a check") {
  ExpertCache cache = full_cache();
  const SlotId in_use = commit(cache, 1, {7}, {7})[0];
  CHECK(dies([&] { cache.insert(key(0, 3), cache.find(key(0, 2))); }, "has a slot already"));
  CHECK(dies([&] { cache.insert(key(1, 2), in_use); }, "in use"));
  CHECK(dies([&] { cache.insert(key(1, 2), SlotId{}); }, "of 4"));
  CHECK(dies([&] { cache.insert(key(1, 2), SlotId{4}); }, "of 4"));
}

TEST_CASE("inserting into a free slot that was not offered fails a check") {
  ExpertCache cache = make_cache(shape_of(1, 8, 4));
  const SlotId offered = cache.offer(LayerId{0}).slot;
  const SlotId other{offered.value == 3 ? 2 : 3};
  CHECK(dies([&] { cache.insert(key(0, 0), other); }, "not offered"));
}

TEST_CASE("dropping an empty slot or one in use fails a check") {
  ExpertCache cache = full_cache();
  const SlotId slot = cache.find(key(0, 2));
  commit(cache, 0, {2}, {});
  CHECK(dies([&] { cache.drop(slot); }, "in use"));
  commit(cache, 0, {}, {});
  cache.drop(slot);
  CHECK(dies([&] { cache.drop(slot); }, "empty"));
}

TEST_CASE("of equal values the earlier layer's expert leaves first, then the smaller id") {
  // Nobody was ever used, so to this policy all are worth nothing.
  ExpertCache cache = make_cache(shape_of(2, 8, 4), {"ewma"});
  for (const ExpertKey k : {key(1, 2), key(0, 6), key(1, 5), key(0, 3)}) bring(cache, k);
  for (const ExpertKey k : {key(0, 3), key(0, 6), key(1, 2), key(1, 5)}) {
    const SlotId slot = cache.offer(LayerId{0}).slot;
    CHECK(cache.occupant(slot) == k);
    cache.protect(slot, true);
  }
}

}  // namespace
TEST_CASE("where experts may be refused, only the ones worth more than whom they displace stay") {
  const CacheShape shape = shape_of(2, 8, 2);
  ExpertCache cache(shape, make_eviction_policy("lfu", {2, 8, nullptr, {}}));
  const auto access = [&](int layer, const std::vector<int>& used, const std::vector<int>& incoming,
                          AdmissionRule admission) {
    const std::vector<ExpertId> all = experts(used);
    const std::vector<ExpertId> in = experts(incoming);
    const Routing r = routing(layer, all);
    std::vector<SlotId> slots(in.size());
    cache.commit({r.use(), in, slots, {}, {admission}, true});
    for (const SlotId slot : slots) {
      if (slot.valid()) cache.set_pieces(slot, shape.pieces, 0);
    }
    return slots;
  };
  // Free slots are given to anybody.
  CHECK(access(0, {0, 1}, {0, 1}, AdmissionRule::kIfBetter)[1].valid());
  access(0, {0, 1}, {}, AdmissionRule::kIfBetter);
  // In layer 1 an expert used once is worth less than those of layer 0, used twice.
  CHECK_FALSE(access(1, {5}, {5}, AdmissionRule::kIfBetter)[0].valid());
  CHECK(cache.stats().refused == 1);
  CHECK(cache.resident() == 2);
  CHECK_FALSE(cache.find(key(1, 5)).valid());
  // Used often enough, it stays.
  access(1, {5}, {}, AdmissionRule::kIfBetter);
  CHECK(access(1, {5}, {5}, AdmissionRule::kIfBetter)[0].valid());
  CHECK(cache.find(key(1, 5)).valid());
  // What is always admitted stays as long as there are slots that the layer does not use.
  const auto slots = access(1, {5, 6, 7}, {6, 7}, AdmissionRule::kAlways);
  CHECK(slots[0].valid());
  CHECK_FALSE(slots[1].valid());
}

TEST_CASE("of an expert that comes in part only that part is weighed") {
  CacheShape shape = shape_of(1, 8, 1);
  shape.pieces = 4;
  ExpertCache cache(shape, make_eviction_policy("lfu", {1, 8, nullptr, {}}));
  const auto stays = [&](int expert, int32_t pieces, int uses) {
    const std::vector<ExpertId> in = experts({expert});
    const std::vector<int32_t> parts{pieces};
    std::vector<SlotId> slots(1);
    for (int i = 1; i < uses; ++i) {
      const Routing r = routing(0, in);
      cache.commit({r.use(), {}, {}, {}, {AdmissionRule::kIfBetter}, true});
    }
    const Routing r = routing(0, in);
    cache.commit({r.use(), in, slots, parts, {AdmissionRule::kIfBetter}, true});
    if (slots[0].valid()) cache.set_pieces(slots[0], pieces, 0);
    return slots[0].valid();
  };
  REQUIRE(stays(0, 4, 2));
  // Used twice as often, but half of it or less has come.
  CHECK_FALSE(stays(1, 1, 4));
  CHECK(cache.find(key(0, 0)).valid());
  CHECK(stays(1, 4, 1));
  // Who is there in part is worth that part as well: used three times, with a quarter against 1's
  // five uses and all of it.
  CHECK_FALSE(stays(2, 1, 3));
  CHECK(stays(2, 4, 4));
}

TEST_CASE("with the policy static nobody comes in once the slots are full") {
  ExpertCache cache(shape_of(1, 8, 2), make_eviction_policy("static", {1, 8, nullptr, {}}));
  for (const int expert : {3, 5, 0, 0, 0, 7}) {
    const std::vector<ExpertId> one = experts({expert});
    if (cache.find(key(0, expert)).valid()) continue;
    const Routing r = routing(0, one);
    std::vector<SlotId> slots(1);
    cache.commit({r.use(), one, slots, {}, {AdmissionRule::kIfBetter}, true});
    if (slots[0].valid()) cache.set_pieces(slots[0], 1, 0);
  }
  CHECK(cache.find(key(0, 3)).valid());
  CHECK(cache.find(key(0, 5)).valid());
  CHECK(cache.stats().evictions == 0);
  CHECK(cache.stats().refused == 4);
}

}  // namespace tandem::test
