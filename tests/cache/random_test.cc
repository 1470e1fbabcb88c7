// Thousands of random accesses; after each one the whole state is compared with a model that
// keeps nothing but the list of residents and every use since the start.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

struct Use {
  int count = 0;
  int last = 0;
};

// The documented ranking: smaller leaves first.
std::pair<int, int> rank(const std::string& policy, const Use& use) {
  return policy == "lru" ? std::pair{use.last, 0} : std::pair{use.count, use.last};
}

// Slot map and occupants are inverse, nobody lives in two slots, and residents are counted.
bool consistent(const ExpertCache& cache) {
  const CacheShape& shape = cache.shape();
  int residents = 0;
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int e = 0; e < shape.n_experts; ++e) {
      const SlotId slot = cache.find(key(layer, e));
      if (!slot.valid()) continue;
      ++residents;
      if (slot.value >= shape.n_slots || cache.occupant(slot) != key(layer, e)) return false;
    }
  }
  int occupied = 0;
  for (int s = 0; s < shape.n_slots; ++s) {
    const ExpertKey who = cache.occupant(SlotId{s});
    if (!who.expert.valid()) continue;
    ++occupied;
    if (cache.find(who) != SlotId{s}) return false;
  }
  return residents == occupied && residents == cache.resident();
}

struct Access {
  int layer;
  std::vector<ExpertId> used;
  std::vector<ExpertId> incoming;
};

Access draw_access(std::mt19937& random, const ExpertCache& cache) {
  const CacheShape& shape = cache.shape();
  Access a{static_cast<int>(random() % shape.n_layers), {}, {}};
  std::vector<ExpertId> all;
  for (int e = 0; e < shape.n_experts; ++e) all.push_back(ExpertId{e});
  std::shuffle(all.begin(), all.end(), random);
  a.used.assign(all.begin(), all.begin() + static_cast<int>(random() % (shape.n_experts + 1)));
  const auto room = static_cast<size_t>(cache.room_beside(LayerId{a.layer}, a.used));
  for (const ExpertId e : a.used) {
    const bool absent = !cache.find({LayerId{a.layer}, e}).valid();
    if (absent && a.incoming.size() < room && random() % 3 != 0) a.incoming.push_back(e);
  }
  return a;
}

void run(const std::string& policy, const CacheShape& shape, uint32_t seed, int n_accesses) {
  std::mt19937 random(seed);
  ExpertCache cache = make_cache(shape, policy);
  std::vector<ExpertKey> residents;
  std::map<ExpertKey, Use> uses;
  CacheStats want;
  int now = 0;
  for (int i = 0; i < n_accesses; ++i) {
    const Access a = draw_access(random, cache);
    const LayerId layer{a.layer};
    const auto in_use = [&](ExpertKey k) {
      return k.layer == layer && std::count(a.used.begin(), a.used.end(), k.expert) > 0;
    };
    for (const ExpertKey k : residents) want.hits += in_use(k) ? 1 : 0;
    want.misses = want.misses + a.used.size();
    for (size_t u = a.used.size(); u-- > 0;) {
      Use& use = uses[{layer, a.used[u]}];
      use = {use.count + 1, ++now};
    }
    for (const ExpertId e : a.incoming) {
      if (static_cast<int32_t>(residents.size()) == shape.n_slots) {
        auto victim = residents.end();
        for (auto r = residents.begin(); r != residents.end(); ++r) {
          if (in_use(*r)) continue;
          if (victim == residents.end() || rank(policy, uses[*r]) < rank(policy, uses[*victim])) {
            victim = r;
          }
        }
        residents.erase(victim);
        ++want.evictions;
      }
      residents.push_back({layer, e});
      ++want.inserts;
    }
    const auto slots = commit(cache, a.layer, a.used, a.incoming);

    for (size_t s = 0; s < slots.size(); ++s) {
      REQUIRE(cache.occupant(slots[s]) == ExpertKey{layer, a.incoming[s]});
    }
    REQUIRE(consistent(cache));
    REQUIRE(cache.resident() == static_cast<int32_t>(residents.size()));
    for (const ExpertKey k : residents) REQUIRE(cache.find(k).valid());
  }
  CHECK(cache.stats().hits == want.hits);
  CHECK(cache.stats().hits + cache.stats().misses == want.misses);
  CHECK(cache.stats().inserts == want.inserts);
  CHECK(cache.stats().evictions == want.evictions);
}

void run_many(const std::string& policy) {
  run(policy, {1, 1, 1}, 1, 50);
  run(policy, {1, 6, 2}, 2, 500);
  run(policy, {3, 5, 1}, 3, 500);
  run(policy, {2, 8, 5}, 4, 2000);
  run(policy, {4, 6, 13}, 5, 2000);
  run(policy, {2, 4, 8}, 6, 500);   // everybody fits
  run(policy, {2, 4, 20}, 7, 500);  // more slots than experts
}

TEST_CASE("after thousands of random accesses LRU holds exactly whom the definition says") {
  run_many("lru");
}

TEST_CASE("after thousands of random accesses LFU holds exactly whom the definition says") {
  run_many("lfu");
}

}  // namespace
}  // namespace tandem::test
