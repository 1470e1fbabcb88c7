// Whole traces against an independent replay: make_golden.py wrote the two tables beside it.
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::vector<std::vector<std::string>> read_csv(const std::string& name) {
  std::ifstream in(std::string(TANDEM_SOURCE_DIR) + "/tests/cache/" + name);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    std::vector<std::string>& row = rows.emplace_back();
    std::istringstream cells(line);
    for (std::string cell; std::getline(cells, cell, ',');) row.push_back(cell);
  }
  return rows;
}

CacheStats replay(const std::string& policy, int32_t n_slots) {
  ExpertCache cache = make_cache({3, 8, n_slots}, policy);
  for (const auto& row : read_csv("golden_trace.csv")) {
    std::vector<ExpertId> used;
    for (size_t i = 1; i < row.size(); ++i) used.push_back(ExpertId{std::stoi(row[i])});
    serve(cache, std::stoi(row[0]), used);
  }
  return cache.stats();
}

void compare(const std::string& policy) {
  int compared = 0;
  for (const auto& row : read_csv("golden_counts.csv")) {
    if (row[0] != policy) continue;
    CAPTURE(row);
    const CacheStats stats = replay(policy, std::stoi(row[1]));
    CHECK(stats.hits == std::stoul(row[2]));
    CHECK(stats.misses == std::stoul(row[3]));
    CHECK(stats.inserts == std::stoul(row[4]));
    CHECK(stats.evictions == std::stoul(row[5]));
    ++compared;
  }
  CHECK(compared == 9);
}

TEST_CASE("LRU hits, misses and evicts as often as an independent replay at nine sizes") {
  compare("lru");
}

TEST_CASE("LFU hits, misses and evicts as often as an independent replay at nine sizes") {
  compare("lfu");
}

}  // namespace
}  // namespace tandem::test
