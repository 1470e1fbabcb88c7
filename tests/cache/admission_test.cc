// Who of those fetched on demand gets a slot: hysteresis and the limit of a layer, by hand and
// beside a model that sorts lists.
#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

// Worths as the test sets them.
class Fixed final : public EvictionPolicy {
 public:
  Fixed(const std::vector<double>& worths, int n_experts)
      : worths_(worths), n_experts_(n_experts) {}
  void on_use(const LayerUse&) override {}
  double value(ExpertKey key) const override {
    return worths_[static_cast<size_t>(key.layer.value * n_experts_ + key.expert.value)];
  }

 private:
  const std::vector<double>& worths_;
  int n_experts_;
};

// Commits with refusals allowed; those admitted come in whole.
std::vector<bool> admitted(ExpertCache& cache, int layer, const std::vector<int>& used,
                           const std::vector<int>& incoming, const Admission& admission) {
  const std::vector<ExpertId> in = experts(incoming);
  std::vector<SlotId> slots(in.size());
  const Routing r = routing(layer, experts(used));
  cache.commit({r.use(), in, slots, {}, admission, true});
  std::vector<bool> out;
  for (const SlotId slot : slots) {
    if (slot.valid()) cache.set_pieces(slot, cache.shape().pieces, 0);
    out.push_back(slot.valid());
  }
  return out;
}

std::vector<bool> admitted(ExpertCache& cache, const std::vector<int>& incoming,
                           const Admission& admission) {
  return admitted(cache, 0, incoming, incoming, admission);
}

struct Fixture {
  std::vector<double> worths;
  ExpertCache cache;

  // One layer of 8; experts 0 … slots - 1 are resident.
  Fixture(std::vector<double> of, int slots)
      : worths(std::move(of)), cache(shape_of(1, 8, slots), std::make_unique<Fixed>(worths, 8)) {
    for (int e = 0; e < slots; ++e) bring(cache, key(0, e));
    for (int s = 0; s < slots; ++s) cache.set_pieces(SlotId{s}, 1, 0);
    cache.reset_stats();
  }
};

constexpr AdmissionRule kIfBetter = AdmissionRule::kIfBetter;

}  // namespace

TEST_CASE("with hysteresis a newcomer must be worth more by that share") {
  Fixture f({4, 10, 0, 5, 5.5, 0, 0, 0}, 2);
  // 4 is displaced by more than 5, a quarter more.
  CHECK_FALSE(admitted(f.cache, {3}, {kIfBetter, 0.25})[0]);
  CHECK(admitted(f.cache, {4}, {kIfBetter, 0.25})[0]);
  CHECK_FALSE(f.cache.find(key(0, 0)).valid());
  CHECK(f.cache.stats().refused == 1);
}

TEST_CASE("below zero a share more is a share nearer to zero") {
  // Next uses in 10 and 40 visits; a newcomer's in 20, and in 33: 40 / 1.25 is 32.
  Fixture f({-10, -40, 0, -33, -20, 0, 0, 0}, 2);
  CHECK_FALSE(admitted(f.cache, {3}, {kIfBetter, 0.25})[0]);
  CHECK(admitted(f.cache, {3}, {kIfBetter, 0.2})[0]);  // 40 / 1.2 is 33.3
  CHECK(f.cache.find(key(0, 0)).valid());
}

TEST_CASE("hysteresis is no obstacle to a free slot, nor where everybody is admitted") {
  std::vector<double> worths{1, 2, 0, 0, 0, 0, 0, 0};
  ExpertCache cache(shape_of(1, 8, 2), std::make_unique<Fixed>(worths, 8));
  CHECK(admitted(cache, {0}, {kIfBetter, 10})[0]);
  CHECK(admitted(cache, {1}, {kIfBetter, 10})[0]);
  CHECK(admitted(cache, {2}, {AdmissionRule::kAlways})[0]);
}

TEST_CASE("a layer admits those worth most, up to its limit") {
  Fixture f({1, 1, 1, 1, 3, 9, 5, 5}, 4);
  const auto in = admitted(f.cache, {4, 6, 5, 7}, {kIfBetter, 0, 2});
  // 9, and of the two worth 5 the first.
  CHECK(in == std::vector<bool>{false, true, true, false});
  CHECK(f.cache.stats().refused == 2);
  CHECK(f.cache.stats().inserts == 2);
}

TEST_CASE("the limit holds for free slots too, and a limit of none admits nobody") {
  std::vector<double> worths(8, 1);
  ExpertCache cache(shape_of(1, 8, 8), std::make_unique<Fixed>(worths, 8));
  CHECK(admitted(cache, {0, 1, 2}, {AdmissionRule::kAlways, 0, 1}) ==
        std::vector<bool>{true, false, false});
  CHECK(admitted(cache, {1, 2}, {AdmissionRule::kAlways, 0, 0}) == std::vector<bool>{false, false});
  CHECK(cache.resident() == 1);
}

TEST_CASE("where nobody may be refused, more than the limit fail a check") {
  ExpertCache cache = make_cache(shape_of(1, 8, 4));
  const std::vector<ExpertId> in = experts({0, 1});
  std::vector<SlotId> slots(2);
  const Routing r = routing(0, in);
  CHECK(dies(
      [&] {
        cache.commit({r.use(), in, slots, {}, {AdmissionRule::kAlways, 0, 1}});
      },
      "at most 1"));
}

// What a random commit leaves behind, by definition: the best of the newcomers in their order, each
// against the weakest that the layer does not use.
class Model {
 public:
  Model(const std::vector<double>& worths, int slots) : worths_(worths), slots_(slots) {}

  std::vector<ExpertKey> residents;
  int refused_by_limit = 0;
  int refused_by_hysteresis = 0;

  bool holds(ExpertKey key) const {
    return std::find(residents.begin(), residents.end(), key) != residents.end();
  }

  void access(const std::vector<ExpertKey>& used, const std::vector<ExpertKey>& incoming,
              const Admission& admission) {
    std::vector<ExpertKey> best = incoming;
    std::stable_sort(best.begin(), best.end(),
                     [&](ExpertKey a, ExpertKey b) { return worth(a) > worth(b); });
    if (best.size() > static_cast<size_t>(admission.most_per_layer)) {
      best.resize(static_cast<size_t>(admission.most_per_layer));
    }
    for (const ExpertKey one : incoming) {
      if (std::find(best.begin(), best.end(), one) == best.end()) {
        ++refused_by_limit;
      } else if (static_cast<int>(residents.size()) < slots_) {
        residents.push_back(one);
      } else {
        challenge(one, used, admission);
      }
    }
  }

 private:
  double worth(ExpertKey k) const {
    return worths_[static_cast<size_t>(k.layer.value * 8 + k.expert.value)];
  }

  void challenge(ExpertKey one, const std::vector<ExpertKey>& used, const Admission& admission) {
    std::vector<ExpertKey> leaving;
    for (const ExpertKey other : residents) {
      if (std::find(used.begin(), used.end(), other) == used.end()) leaving.push_back(other);
    }
    if (leaving.empty()) return;
    const ExpertKey weakest = *std::min_element(
        leaving.begin(), leaving.end(),
        [&](ExpertKey a, ExpertKey b) { return std::pair(worth(a), a) < std::pair(worth(b), b); });
    const double more = 1 + admission.hysteresis;
    const double needed = worth(weakest) > 0 ? worth(weakest) * more : worth(weakest) / more;
    if (admission.rule == kIfBetter && worth(one) <= needed) {
      refused_by_hysteresis += worth(one) > worth(weakest) ? 1 : 0;
      return;
    }
    residents.erase(std::find(residents.begin(), residents.end(), weakest));
    residents.push_back(one);
  }

  const std::vector<double>& worths_;
  int slots_;
};

TEST_CASE("random admissions let in exactly whom the definition says") {
  std::mt19937 random(17);
  const auto draw = [&](int below) {
    return static_cast<int>(random() % static_cast<unsigned>(below));
  };
  int by_limit = 0;
  int by_hysteresis = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<double> worths(16);
    // Few different worths, so that ties are frequent; positive or negative ones.
    for (double& worth : worths) worth = (round % 2 == 0 ? 1 : -1) * (1 + draw(12));
    const int slots = 2 + draw(10);
    ExpertCache cache(shape_of(2, 8, slots), std::make_unique<Fixed>(worths, 8));
    Model model(worths, slots);
    for (int step = 0; step < 12; ++step) {
      const int layer = draw(2);
      std::vector<int> ids{0, 1, 2, 3, 4, 5, 6, 7};
      std::shuffle(ids.begin(), ids.end(), random);
      ids.resize(static_cast<size_t>(1 + draw(5)));
      const Admission admission{draw(3) == 0 ? AdmissionRule::kAlways : kIfBetter, 0.25 * draw(4),
                                draw(2) == 0 ? draw(4) : Admission::kNoLimit};
      std::vector<ExpertKey> used;
      std::vector<ExpertKey> incoming;
      std::vector<int> in;
      for (const int e : ids) {
        used.push_back(key(layer, e));
        if (model.holds(used.back())) continue;
        incoming.push_back(used.back());
        in.push_back(e);
      }
      model.access(used, incoming, admission);
      admitted(cache, layer, ids, in, admission);
      CAPTURE(round, step);
      REQUIRE(cache.resident() == static_cast<int32_t>(model.residents.size()));
      for (const ExpertKey k : model.residents) REQUIRE(cache.find(k).valid());
    }
    by_limit += model.refused_by_limit;
    by_hysteresis += model.refused_by_hysteresis;
  }
  CHECK(by_limit > 100);
  CHECK(by_hysteresis > 100);
}

}  // namespace tandem::test
