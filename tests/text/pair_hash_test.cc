// Work is counted as entries that share a bucket: each insertion and each look-up walks them.
#include "runtime/text/pair_hash.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr uint64_t kSymbols = 20'000;
// The largest of n buckets with n random keys holds about log n / log log n, 4 or 5 here.
constexpr size_t kFull = 16;

template <typename Map>
size_t fullest_bucket(const Map& map) {
  size_t most = 0;
  for (size_t i = 0; i < map.bucket_count(); ++i) most = std::max(most, map.bucket_size(i));
  return most;
}

// A pair for each left symbol, such that `residue` of its key is 0.
template <typename Residue>
std::vector<uint64_t> crafted(uint64_t n_left, const Residue& residue) {
  std::vector<uint64_t> keys;
  for (uint64_t left = 0; left < n_left; ++left) {
    for (uint64_t right = 0; right < 2 * kSymbols; ++right) {
      const uint64_t key = left << 32 | right;
      if (residue(key) != 0) continue;
      keys.push_back(key);
      break;
    }
  }
  return keys;
}

TEST_CASE("merges whose numbers would share one bucket are spread over all of them") {
  std::unordered_map<uint64_t, int> plain;
  plain.reserve(kSymbols);
  const uint64_t buckets = plain.bucket_count();
  REQUIRE(buckets <= 2 * kSymbols);
  PairMap<int> spread;
  spread.reserve(kSymbols);
  REQUIRE(spread.bucket_count() == buckets);
  std::vector<uint64_t> keys;
  for (uint64_t left = 0; left < kSymbols; ++left) {
    keys.push_back(left << 32 | (buckets - (left << 32) % buckets) % buckets);
  }
  for (size_t i = 0; i < 2000; ++i) plain.emplace(keys[i], 0);
  CHECK(fullest_bucket(plain) == 2000);
  for (const uint64_t key : keys) spread.emplace(key, 0);
  CHECK(spread.size() == kSymbols);
  CHECK(fullest_bucket(spread) <= kFull);
}

TEST_CASE("merges that were aimed at one salt are spread under another") {
  const PairHash aimed_at{1};
  PairMap<int> hit(500, aimed_at);
  const uint64_t buckets = hit.bucket_count();
  const auto keys = crafted(500, [&](uint64_t key) { return aimed_at(key) % buckets; });
  REQUIRE(keys.size() == 500);
  for (const uint64_t key : keys) hit.emplace(key, 0);
  CHECK(fullest_bucket(hit) == 500);
  PairMap<int> spread(500, PairHash{2});
  REQUIRE(spread.bucket_count() == buckets);
  for (const uint64_t key : keys) spread.emplace(key, 0);
  CHECK(fullest_bucket(spread) <= kFull);
}

TEST_CASE("the salt is drawn once a process") {
  CHECK(PairHash().salt == PairHash().salt);
  CHECK(PairHash().salt == PairHash::process_salt());
}

}  // namespace
}  // namespace tandem::test
