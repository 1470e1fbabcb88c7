// The learning policy, against its formula worked out with maps of doubles and no code of its own.
#include "cache/policies/learned.h"

#include <cmath>
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

const std::vector<double> kValues{0.25, 0.01, 0.25, 0, 0.12, 3};

// One token at a time; no runners-up, and no more experts than are looked at.
class Reference {
 public:
  Reference(int layers, int n_experts) : layers_(layers), n_experts_(n_experts) {}

  // The layers that speak of this one.
  std::vector<int> sources(int layer) const {
    std::vector<int> list;
    for (int from = 0; from < layers_; ++from) {
      const bool first = from == 0 && layer >= 4;
      if (from == layer || first) list.push_back(from);
    }
    return list;
  }

  void visit(int layer, const std::vector<int>& used) {
    size_t active = 0;
    for (const int from : sources(layer)) active += last_[from].size();
    if (active > 0) {
      std::vector<double> error(static_cast<size_t>(n_experts_));
      double agreed = 0;
      double square = 0;
      for (int e = 0; e < n_experts_; ++e) {
        const double sum = said(layer, e);
        const double left = uses(used, e) - rate(layer, e);
        agreed += left * sum;
        square += sum * sum;
        error[static_cast<size_t>(e)] = left - sum;
      }
      agreed_[layer] += 0.02 * (agreed - agreed_[layer]);
      square_[layer] += 0.02 * (square - square_[layer]);
      for (const int from : sources(layer)) {
        for (const int i : last_[from]) {
          for (int e = 0; e < n_experts_; ++e) {
            weights_[{layer, from, i, e}] +=
                kValues[4] * error[static_cast<size_t>(e)] / static_cast<double>(active);
          }
        }
      }
    }
    // From now on its last use says something of layers that come after it only.
    last_[layer] = used;
    heard_[layer].clear();
    for (int target = 0; target < layers_; ++target) {
      for (const int from : sources(target)) {
        if (from == layer) heard_[target][from] = used;
      }
    }
    for (int e = 0; e < n_experts_; ++e) {
      fast_[{layer, e}] += 0.25 * (uses(used, e) - fast_[{layer, e}]);
      slow_[{layer, e}] += 0.01 * (uses(used, e) - slow_[{layer, e}]);
    }
  }

  double rate(int layer, int e) { return 0.25 * fast_[{layer, e}] + 0.75 * slow_[{layer, e}]; }
  double next(int layer, int e) {
    const double trust =
        square_[layer] > 0 ? std::clamp(agreed_[layer] / square_[layer], 0.0, 1.0) : 0;
    return std::clamp(rate(layer, e) + trust * said(layer, e), 1e-4, 1.0);
  }

 private:
  static double uses(const std::vector<int>& used, int e) {
    return static_cast<double>(std::count(used.begin(), used.end(), e));
  }
  double said(int layer, int e) {
    double sum = 0;
    for (const auto& [from, ids] : heard_[layer]) {
      for (const int i : ids) sum += weights_[{layer, from, i, e}];
    }
    return sum;
  }

  int layers_;
  int n_experts_;
  std::map<int, std::vector<int>> last_;
  std::map<int, std::map<int, std::vector<int>>> heard_;
  std::map<std::tuple<int, int, int, int>, double> weights_;
  std::map<int, double> agreed_;
  std::map<int, double> square_;
  std::map<std::pair<int, int>, double> fast_;
  std::map<std::pair<int, int>, double> slow_;
};

// What a layer uses follows from what it used in the token before, three times of four.
std::vector<int> draw_used(std::mt19937& random, int layer, int n_experts, int hint) {
  const int first = random() % 4 == 0 ? static_cast<int>(random()) & 0xff : hint * 3 + layer;
  return {first % n_experts, (first + 1) % n_experts};
}

TEST_CASE("what the learning policy forecasts is its formula's") {
  constexpr int kExperts = 8;
  for (const int layers : {1, 2, 3, 5, 9}) {
    std::mt19937 random(7);
    LearnedUse policy({layers, kExperts, nullptr, {}}, kValues);
    Reference reference(layers, kExperts);
    std::vector<int> hints(static_cast<size_t>(layers));
    double most = 0;
    for (int token = 0; token < 150; ++token) {
      for (int layer = 0; layer < layers; ++layer) {
        int& hint = hints[static_cast<size_t>(layer)];
        const std::vector<int> used = draw_used(random, layer, kExperts, hint);
        hint = used.front();
        policy.on_use(routing(layer, experts(used)).use());
        reference.visit(layer, used);
        for (int i = 0; i < layers * kExperts; ++i) {
          CAPTURE(layers, token, layer, i);
          const double want = reference.next(i / kExperts, i % kExperts);
          REQUIRE(policy.next(key(i / kExperts, i % kExperts)) == Approx(want).margin(1e-5));
          most = std::max(most, want);
        }
      }
    }
    CHECK(most > 0.7);  // it did learn
  }
}

TEST_CASE("the learning policy tells a pattern that rates of use cannot see") {
  // Expert 0 and 1 take turns: each has a rate of a half, and the next one is certain.
  LearnedUse policy({1, 8, nullptr, {}}, kValues);
  for (int token = 0; token < 200; ++token) {
    policy.on_use(routing(0, experts({token % 2})).use());
  }
  CHECK(policy.next(key(0, 0)) > 0.95);
  CHECK(policy.next(key(0, 1)) < 0.05);
  CHECK(policy.rate(key(0, 1)) > 0.4);
}

TEST_CASE("where there is nothing to learn the learning policy falls back on rates of use") {
  std::mt19937 random(3);
  LearnedUse policy({6, 16, nullptr, {}}, kValues);
  double apart = 0;
  for (int token = 0; token < 1200; ++token) {
    for (int layer = 0; layer < 6; ++layer) {
      const int first = static_cast<int>(random() % 16);
      const int second = (first + 1 + static_cast<int>(random() % 15)) % 16;
      policy.on_use(routing(layer, experts({first, second})).use());
    }
    for (int i = 0; token >= 200 && i < 6 * 16; ++i) {
      const ExpertKey one = key(i / 16, i % 16);
      apart += std::abs(policy.next(one) - policy.rate(one)) / (1000 * 6 * 16);
    }
  }
  CHECK(apart < 0.01);  // of a rate of 0.125
}

TEST_CASE("a use that comes sooner is worth more to the learning policy") {
  LearnedUse policy({4, 8, nullptr, {}}, kValues);
  for (int layer = 0; layer < 4; ++layer) policy.on_use(routing(layer, experts({1})).use());
  // The last layer has just had its turn.
  CHECK(policy.value(key(0, 1)) > policy.value(key(1, 1)));
  CHECK(policy.value(key(1, 1)) > policy.value(key(3, 1)));
  const double next = policy.next(key(0, 1));
  const double rate = policy.rate(key(0, 1));
  CHECK(policy.value(key(0, 1)) ==
        Approx(std::exp(-0.25 / 3) * (next + rate / (std::exp(1.0 / 3) - 1))));
}

TEST_CASE("the learning policy learns from the last tokens of a prompt as if they were decoded") {
  constexpr int kTokens = LearnedUse::kTokens;
  std::mt19937 random(9);
  std::vector<std::vector<int>> used(3 * kTokens);
  for (auto& token : used) token = draw_used(random, 0, 8, 1);
  LearnedUse at_once({3, 8, nullptr, {}}, kValues);
  for (int layer = 0; layer < 3; ++layer) {
    Routing prompt = routing(layer, experts(used.front()));
    prompt.n_tokens = kTokens;
    prompt.ranked.clear();
    for (int t = 0; t < kTokens; ++t) {
      for (const int e : used[static_cast<size_t>(3 * t + layer)]) {
        prompt.ranked.push_back(ExpertId{e});
      }
    }
    prompt.scores.assign(2 * kTokens, 0.5F);
    at_once.on_use(prompt.use());
  }
  // Rates differ on the way, so the sums do; what must agree is who is told apart.
  LearnedUse one_by_one({3, 8, nullptr, {}}, kValues);
  for (int i = 0; i < 3 * kTokens; ++i) {
    one_by_one.on_use(routing(i % 3, experts(used[static_cast<size_t>(i)])).use());
  }
  for (int i = 0; i < 24; ++i) {
    CAPTURE(i);
    CHECK(at_once.next(key(i / 8, i % 8)) ==
          Approx(one_by_one.next(key(i / 8, i % 8))).margin(0.15));
    CHECK(at_once.rate(key(i / 8, i % 8)) == Approx(one_by_one.rate(key(i / 8, i % 8))));
  }
}

TEST_CASE("a model of many experts gets fewer sources, not more memory") {
  // 64 layers of 512 experts: one source takes 64 MiB in all, as much as is granted.
  LearnedUse policy({64, 512, nullptr, {}}, kValues);
  for (int token = 0; token < 60; ++token) {
    policy.on_use(routing(5, experts({token % 2})).use());
  }
  CHECK(policy.next(key(5, 0)) > policy.next(key(5, 1)) + 0.2);
}

}  // namespace
}  // namespace tandem::test
