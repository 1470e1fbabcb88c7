// Experts of different sizes, and layers with slots of their own.
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

CacheShape mixed(std::vector<int64_t> expert_bytes, int n_experts, int64_t capacity,
                 PoolShape pool = PoolShape::kShared) {
  const auto n_layers = static_cast<int32_t>(expert_bytes.size());
  return {n_layers, n_experts, 1, std::move(expert_bytes), capacity, pool};
}

int64_t bytes_of(const std::vector<SlotClass>& classes) {
  int64_t bytes = 0;
  for (const SlotClass& c : classes) bytes += c.count * c.slot_bytes;
  return bytes;
}

TEST_CASE("sizes get slots in proportion to the bytes of their experts") {
  // 2 x 8 x 100 + 1 x 8 x 300 bytes; the capacity is half of them.
  const auto classes = slot_classes(mixed({100, 300, 100}, 8, 2000));
  REQUIRE(classes.size() == 2);
  CHECK(classes[0].slot_bytes == 100);
  CHECK(classes[0].count == 8);
  CHECK(classes[0].n_layers == 2);
  CHECK(classes[1].slot_bytes == 300);
  CHECK(classes[1].count == 4);
  CHECK(classes[1].n_layers == 1);
  CHECK(classes[1].first == 8);
}

TEST_CASE("slots never exceed the capacity, and what is left has room for no further slot") {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const int n_experts = 1 + static_cast<int>(random() % 20);
    const std::vector<int64_t> sizes{1 + static_cast<int64_t>(random() % 1000),
                                     1 + static_cast<int64_t>(random() % 1000),
                                     int64_t{1} << (20 + random() % 6)};
    std::vector<int64_t> bytes;
    for (size_t l = 1 + random() % 6; l > 0; --l) bytes.push_back(sizes[random() % 3]);
    const int64_t all = n_experts * std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
    const auto capacity = static_cast<int64_t>(static_cast<double>(random() % 1200) / 1000 *
                                               static_cast<double>(all));
    CAPTURE(round, n_experts, bytes, capacity);
    const auto classes = slot_classes(mixed(bytes, n_experts, capacity));

    const int64_t used = bytes_of(classes);
    CHECK(used <= capacity);
    int32_t first = 0;
    for (const SlotClass& c : classes) {
      CHECK(c.n_layers == std::count(bytes.begin(), bytes.end(), c.slot_bytes));
      CHECK(c.count >= 0);
      CHECK(c.count <= c.n_layers * n_experts);
      CHECK((c.count == c.n_layers * n_experts || capacity - used < c.slot_bytes));
      CHECK(c.first == first);
      first += c.count;
    }
  }
}

TEST_CASE("with room for all experts there is a slot for each, and not one more") {
  for (const int64_t capacity : {int64_t{4000}, int64_t{4001}, int64_t{1} << 60}) {
    const auto classes = slot_classes(mixed({100, 300, 100}, 8, capacity));
    CHECK(classes[0].count == 16);
    CHECK(classes[1].count == 8);
  }
}

TEST_CASE("without capacity there are no slots") {
  for (const int64_t capacity : {int64_t{0}, int64_t{99}, int64_t{-5}}) {
    const ExpertCache cache = make_cache(mixed({100, 300}, 8, capacity));
    CHECK(cache.n_slots() == 0);
    CHECK(cache.room_beside(LayerId{1}, {}) == 0);
  }
}

TEST_CASE("an expert never gets a slot of another size") {
  // One small slot and one large one.
  ExpertCache cache = make_cache(mixed({100, 300}, 4, 400));
  REQUIRE(cache.n_slots() == 2);
  commit(cache, 0, {1}, {1});
  commit(cache, 0, {2}, {2});  // the large slot is free, and stays so
  CHECK(cache.resident() == 1);
  const SlotId large = commit(cache, 1, {3}, {3})[0];
  CHECK(cache.slot_bytes(large) == 300);
  CHECK(cache.slot_bytes(cache.find(key(0, 2))) == 100);
  CHECK(cache.room_beside(LayerId{0}, experts({2})) == 0);
}

TEST_CASE("inserting into a slot of another size fails a check") {
  ExpertCache cache = make_cache(mixed({100, 300}, 4, 400));
  const SlotId small = cache.offer(LayerId{0}).slot;
  CHECK(dies([&] { cache.insert(key(1, 0), small); }, "not offered"));
  commit(cache, 0, {1}, {1});
  commit(cache, 0, {}, {});
  CHECK(dies([&] { cache.insert(key(1, 0), small); }, "not offered"));
}

TEST_CASE("layers of one size share their slots") {
  ExpertCache cache = make_cache(mixed({100, 300, 100}, 4, 1000));
  REQUIRE(cache.classes()[0].count == 4);
  commit(cache, 0, {0, 1, 2, 3}, {0, 1, 2, 3});
  commit(cache, 2, {0, 1, 2, 3}, {0, 1, 2, 3});
  CHECK(cache.slots_of(LayerId{0}).empty());
  CHECK(cache.slots_of(LayerId{2}).size() == 4);
}

TEST_CASE("in a pool for each layer nobody evicts another layer's experts") {
  ExpertCache cache = make_cache(shape_of(2, 8, 4, PoolShape::kPerLayer));
  commit(cache, 0, {0, 1}, {0, 1});
  for (int e = 0; e < 8; ++e) commit(cache, 1, {e}, {e});
  CHECK(cache.find(key(0, 0)).valid());
  CHECK(cache.find(key(0, 1)).valid());
  CHECK(cache.slots_of(LayerId{1}).size() == 2);
}

TEST_CASE("in a pool for each layer a layer at its quota is not offered free slots") {
  ExpertCache cache = make_cache(shape_of(2, 8, 4, PoolShape::kPerLayer));
  commit(cache, 0, {0, 1}, {0, 1});
  commit(cache, 1, {}, {});
  const ExpertCache::Offer offer = cache.offer(LayerId{0});
  CHECK_FALSE(offer.free);
  CHECK(cache.occupant(offer.slot) == key(0, 1));
  CHECK(cache.offer(LayerId{1}).free);
  CHECK(cache.room_beside(LayerId{0}, experts({0, 5})) == 1);
  const SlotId free = cache.offer(LayerId{1}).slot;
  CHECK(dies([&] { cache.insert(key(0, 7), free); }, "layer 0 has its 2 slots"));
}

TEST_CASE("quotas differ by at most one slot, the earlier layers having more, and use all slots") {
  for (int slots = 0; slots <= 24; ++slots) {
    const ExpertCache cache = make_cache(shape_of(3, 8, slots, PoolShape::kPerLayer));
    int left = slots;
    for (int l = 0; l < 3; ++l) {
      const int quota = cache.room_beside(LayerId{l}, {});
      CHECK(quota == (slots + 2 - l) / 3);
      left -= quota;
    }
    CHECK(left == 0);
  }
}

TEST_CASE("quotas share out each size's slots among its own layers") {
  const ExpertCache cache = make_cache(mixed({100, 300, 100}, 8, 2000, PoolShape::kPerLayer));
  CHECK(cache.room_beside(LayerId{0}, {}) == 4);
  CHECK(cache.room_beside(LayerId{1}, {}) == 4);
  CHECK(cache.room_beside(LayerId{2}, {}) == 4);
}

}  // namespace
}  // namespace tandem::test
