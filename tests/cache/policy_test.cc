#include <algorithm>
#include <vector>

#include "cache/eviction_policy.h"
#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

const std::vector<uint8_t> kUnlocked(4, 0);

std::unique_ptr<EvictionPolicy> policy(std::string_view name) {
  return make_eviction_policy(name, {2, 8, 4});
}

TEST_CASE("the names of the policies are sorted, and each one can be made") {
  const auto names = eviction_policy_names();
  CHECK(std::is_sorted(names.begin(), names.end()));
  CHECK(std::find(names.begin(), names.end(), "lru") != names.end());
  CHECK(std::find(names.begin(), names.end(), "lfu") != names.end());
  for (const auto name : names) CHECK(policy(name) != nullptr);
}

TEST_CASE("an unknown policy name gives no policy") {
  for (const auto* name : {"", "LRU", "lru ", "belady"}) CHECK(policy(name) == nullptr);
}

TEST_CASE("no policy names a victim while every slot is empty") {
  for (const auto name : eviction_policy_names()) {
    CHECK_FALSE(policy(name)->victim(kUnlocked).valid());
  }
}

TEST_CASE("no policy names a locked victim") {
  for (const auto name : eviction_policy_names()) {
    auto p = policy(name);
    p->on_use(LayerId{0}, experts({0, 1}));
    p->on_insert(SlotId{0}, key(0, 0));
    p->on_insert(SlotId{1}, key(0, 1));
    CHECK(p->victim(std::vector<uint8_t>{0, 1, 0, 0}) == SlotId{0});
    CHECK(p->victim(std::vector<uint8_t>{1, 0, 0, 0}) == SlotId{1});
    CHECK_FALSE(p->victim(std::vector<uint8_t>{1, 1, 0, 0}).valid());
  }
}

TEST_CASE("LRU evicts the expert that was used longest ago, whatever its layer") {
  ExpertCache cache = make_cache({2, 8, 3}, "lru");
  for (const auto& [layer, e] : {std::pair{0, 1}, {1, 2}, {0, 3}}) serve(cache, layer, {e});
  serve(cache, 0, {1});
  serve(cache, 1, {7});
  CHECK_FALSE(cache.find(key(1, 2)).valid());
  serve(cache, 1, {6});
  CHECK_FALSE(cache.find(key(0, 3)).valid());
}

TEST_CASE("within one access LRU holds the lighter expert to be older") {
  ExpertCache cache = make_cache({2, 8, 3}, "lru");
  serve(cache, 0, {4, 2, 6});  // heaviest first
  serve(cache, 1, {0});
  CHECK_FALSE(cache.find(key(0, 6)).valid());
  serve(cache, 1, {1});
  CHECK_FALSE(cache.find(key(0, 2)).valid());
  CHECK(cache.find(key(0, 4)).valid());
}

TEST_CASE("LFU evicts the expert with the fewest uses, however recent they are") {
  ExpertCache cache = make_cache({2, 8, 2}, "lfu");
  for (int i = 0; i < 3; ++i) serve(cache, 0, {1});
  serve(cache, 0, {2});
  serve(cache, 0, {2});
  serve(cache, 1, {5});
  CHECK(cache.find(key(0, 1)).valid());
  CHECK_FALSE(cache.find(key(0, 2)).valid());
}

TEST_CASE("among equal counts LFU evicts the expert used longest ago") {
  ExpertCache cache = make_cache({2, 8, 2}, "lfu");
  serve(cache, 0, {1});
  serve(cache, 0, {2});
  serve(cache, 0, {2});
  serve(cache, 0, {1});
  serve(cache, 1, {5});
  CHECK_FALSE(cache.find(key(0, 2)).valid());
}

TEST_CASE("within one access LFU holds the lighter expert to be older") {
  ExpertCache cache = make_cache({2, 8, 2}, "lfu");
  serve(cache, 0, {6, 2});
  serve(cache, 1, {0});
  CHECK_FALSE(cache.find(key(0, 2)).valid());
  CHECK(cache.find(key(0, 6)).valid());
}

TEST_CASE("LFU counts outlive eviction") {
  ExpertCache cache = make_cache({1, 8, 2}, "lfu");
  for (int i = 0; i < 4; ++i) serve(cache, 0, {1});
  for (int i = 0; i < 5; ++i) serve(cache, 0, {2});
  for (int i = 0; i < 5; ++i) serve(cache, 0, {3});  // evicts 1, then overtakes it
  REQUIRE_FALSE(cache.find(key(0, 1)).valid());
  serve(cache, 0, {1});  // its fifth use; 2 has five, older
  REQUIRE_FALSE(cache.find(key(0, 2)).valid());
  serve(cache, 0, {1});  // six uses now, 3 has five
  serve(cache, 0, {4});
  CHECK(cache.find(key(0, 1)).valid());
  CHECK_FALSE(cache.find(key(0, 3)).valid());
}

TEST_CASE("LFU counts the uses of an expert that is absent") {
  ExpertCache cache = make_cache({1, 8, 2}, "lfu");
  for (int i = 0; i < 5; ++i) commit(cache, 0, {1}, {});
  commit(cache, 0, {1}, {1});
  for (int i = 0; i < 3; ++i) serve(cache, 0, {2});
  serve(cache, 0, {3});
  CHECK(cache.find(key(0, 1)).valid());
  CHECK_FALSE(cache.find(key(0, 2)).valid());
}

}  // namespace
}  // namespace tandem::test
