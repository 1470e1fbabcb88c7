#include "scheduler/hot_set.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "scheduler/first_contents.h"
#include "scheduler/simulator.h"
#include "scheduler/synthetic_trace.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Worths as the test sets them, [2 layers, 4 experts].
class Fixed final : public EvictionPolicy {
 public:
  explicit Fixed(std::vector<double> worths) : worths_(std::move(worths)) {}
  void on_use(const LayerUse&) override {}
  double value(ExpertKey key) const override {
    return worths_[static_cast<size_t>(key.layer.value * 4 + key.expert.value)];
  }

 private:
  std::vector<double> worths_;
};

ExpertCache cache_of(std::vector<int64_t> bytes, int64_t capacity, std::vector<double> worths,
                     PoolShape pool = PoolShape::kShared) {
  return ExpertCache({2, 4, 1, std::move(bytes), capacity, pool},
                     std::make_unique<Fixed>(std::move(worths)));
}

std::vector<int> residents(const ExpertCache& cache, int layer) {
  std::vector<int> ids;
  for (const SlotId slot : cache.slots_of(LayerId{layer})) {
    ids.push_back(cache.occupant(slot).expert.value);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

HotSet hot_of(const std::vector<std::vector<std::pair<int, double>>>& layers) {
  HotSet hot;
  hot.n_layers = static_cast<int32_t>(layers.size());
  hot.n_experts = 4;
  for (const auto& layer : layers) {
    auto& experts = hot.layers.emplace_back();
    for (const auto& [id, value] : layer) experts.push_back({ExpertId{id}, value});
  }
  return hot;
}

}  // namespace

TEST_CASE("a cache's hot set is each layer's experts by worth, of equal ones residents first") {
  ExpertCache cache = cache_of({100, 100}, 200, {1, 5, 3, 5, 0, 0, 0, 0});
  for (const ExpertKey key :
       {ExpertKey{LayerId{0}, ExpertId{3}}, ExpertKey{LayerId{1}, ExpertId{2}}}) {
    cache.insert(key, cache.offer(key.layer).slot);
  }
  const HotSet hot = hot_set_of(cache);
  const auto ids = [&](size_t layer) {
    std::vector<int> out;
    for (const HotExpert& one : hot.layers[layer]) out.push_back(one.expert.value);
    return out;
  };
  CHECK(ids(0) == std::vector{3, 1, 2, 0});
  CHECK(ids(1) == std::vector{2, 0, 1, 3});
  CHECK(hot.layers[0][2].value == 3);
  CHECK(hot.n_layers == 2);
  CHECK(hot.n_experts == 4);
}

TEST_CASE("of a hot set as many come in as fit, best first over layers of one size") {
  const HotSet hot = hot_of({{{2, 9}, {0, 4}, {1, 4}}, {{3, 4}, {1, 1}}});
  for (const auto& [slots, first, second] :
       {std::tuple{1, std::vector{2}, std::vector<int>{}},
        {2, std::vector{2}, std::vector{3}},  // the best of its layer before the second of another
        {3, std::vector{0, 2}, std::vector{3}},
        {8, std::vector{0, 1, 2}, std::vector{1, 3}}}) {
    ExpertCache cache = cache_of({100, 100}, 100 * slots, std::vector<double>(8));
    fill_saved(hot, &cache);
    CAPTURE(slots);
    CHECK(residents(cache, 0) == first);
    CHECK(residents(cache, 1) == second);
    CHECK(cache.stats().inserts == 0);
    for (const SlotId slot : cache.slots_of(LayerId{0})) CHECK(cache.pieces(slot) == 1);
  }
}

TEST_CASE("a hot set fills each size of slots, and each layer's quota, on its own") {
  const HotSet hot = hot_of({{{2, 9}, {0, 8}, {1, 7}}, {{3, 4}, {1, 1}}});
  ExpertCache sizes = cache_of({100, 300}, 900, std::vector<double>(8));
  REQUIRE(sizes.classes()[0].count == 3);
  REQUIRE(sizes.classes()[1].count == 2);
  fill_saved(hot, &sizes);
  CHECK(residents(sizes, 0) == std::vector{0, 1, 2});
  CHECK(residents(sizes, 1) == std::vector{1, 3});
  ExpertCache quotas = cache_of({100, 100}, 200, std::vector<double>(8), PoolShape::kPerLayer);
  fill_saved(hot, &quotas);
  CHECK(residents(quotas, 0) == std::vector{2});
  CHECK(residents(quotas, 1) == std::vector{3});
}

TEST_CASE("what a cache holds at its end is what a cache of that size starts with") {
  // Two of each layer are resident, and worth most.
  ExpertCache cache = cache_of({100, 100}, 400, {1, 5, 3, 0, 0, 6, 0, 4});
  for (const auto& [layer, expert] : {std::pair{0, 1}, {0, 2}, {1, 1}, {1, 3}}) {
    const ExpertKey key{LayerId{layer}, ExpertId{expert}};
    cache.insert(key, cache.offer(key.layer).slot);
  }
  ExpertCache next = cache_of({100, 100}, 400, std::vector<double>(8));
  fill_saved(hot_set_of(cache), &next);
  for (const int layer : {0, 1}) CHECK(residents(next, layer) == residents(cache, layer));
}

}  // namespace tandem::test
