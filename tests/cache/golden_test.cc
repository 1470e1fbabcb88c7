// Whole traces against an independent replay: make_golden.py wrote the tables beside it.
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int kLayers = 3;
constexpr int kExperts = 8;
constexpr int kSizes = 9;

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

std::vector<Routing> read_trace() {
  const auto trace = read_csv("golden_trace.csv");
  const auto gates = read_csv("golden_gates.csv");
  REQUIRE(trace.size() == gates.size());
  std::vector<Routing> events;
  for (size_t t = 0; t < trace.size(); ++t) {
    Routing& event = events.emplace_back();
    event.layer = std::stoi(trace[t][0]);
    event.top_k = static_cast<int>(trace[t].size()) - 1;
    event.n_ranks = static_cast<int>(gates[t].size()) / 2;
    for (size_t i = 1; i < trace[t].size(); ++i) {
      event.used.push_back(ExpertId{std::stoi(trace[t][i])});
    }
    for (size_t i = 0; i < gates[t].size(); i += 2) {
      event.ranked.push_back(ExpertId{std::stoi(gates[t][i])});
      event.scores.push_back(std::stof(gates[t][i + 1]) / 1024);
    }
  }
  return events;
}

void compare(const std::string& name, const Choice& choice, PoolShape pool = PoolShape::kShared) {
  const std::vector<Routing> trace = read_trace();
  int compared = 0;
  for (const auto& row : read_csv("golden_counts.csv")) {
    if (row[0] != name) continue;
    CAPTURE(row);
    const CacheShape shape = shape_of(kLayers, kExperts, std::stoi(row[1]), pool);
    const CacheStats stats = replay(trace, shape, choice);
    CHECK(stats.hits == std::stoul(row[2]));
    CHECK(stats.misses == std::stoul(row[3]));
    CHECK(stats.inserts == std::stoul(row[4]));
    CHECK(stats.evictions == std::stoul(row[5]));
    ++compared;
  }
  CHECK(compared == kSizes);
}

TEST_CASE("LRU hits, misses and evicts as often as an independent replay at nine sizes") {
  compare("lru", {"lru"});
}

TEST_CASE("LFU hits, misses and evicts as often as an independent replay at nine sizes") {
  compare("lfu", {"lfu", {0}});
}

TEST_CASE("LFU that ages hits, misses and evicts as often as an independent replay") {
  compare("lfu-8", {"lfu", {8}});
}

TEST_CASE("LFRU hits, misses and evicts as often as an independent replay, aged or not") {
  compare("lfru", {"lfru", {0}});
  compare("lfru-8", {"lfru", {8}});
}

TEST_CASE("layer-LRU hits, misses and evicts as often as an independent replay") {
  compare("layer-lru", {"layer-lru"});
}

TEST_CASE("MRS hits, misses and evicts as often as an independent replay") {
  compare("mrs", {"mrs"});
  compare("mrs-1", {"mrs", {0.3, 1}});
}

TEST_CASE("two-rate use hits, misses and evicts as often as an independent replay") {
  compare("ewma", {"ewma"});
}

TEST_CASE("cost-aware eviction hits, misses and evicts as often as an independent replay") {
  compare("cost-aware", {"cost-aware", {}, {1, 2.5, 0.5}});
}

TEST_CASE("Belady hits, misses and evicts as often as an independent replay") {
  compare("belady", {"belady"});
}

TEST_CASE("Belady within a window hits, misses and evicts as often as an independent replay") {
  compare("windowed-belady", {"windowed-belady"});
}

TEST_CASE("with slots for each layer three policies do as an independent replay does") {
  compare("lru per layer", {"lru"}, PoolShape::kPerLayer);
  compare("ewma per layer", {"ewma"}, PoolShape::kPerLayer);
  compare("belady per layer", {"belady"}, PoolShape::kPerLayer);
}

}  // namespace
}  // namespace tandem::test
