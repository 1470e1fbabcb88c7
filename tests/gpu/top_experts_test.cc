// Selection by a router's logits, against float64.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

struct Top {
  std::vector<int> ids;
  std::vector<float> scores;
};

Top run(const Way& way, const std::vector<float>& logits, int n_experts, int count, bool sigmoid) {
  const auto n = static_cast<int>(logits.size()) / n_experts;
  Top top{std::vector<int>(static_cast<size_t>(n * count), -7),
          std::vector<float>(static_cast<size_t>(n * count), -7.0F)};
  vgpu::Emulation emulation(way.options);
  gpu::kEmulatedOps.top_experts(
      &emulation, {logits.data(), n_experts, sigmoid, count, top.ids.data(), top.scores.data()}, n);
  return top;
}

std::vector<double> scores_of(const float* logits, int n, bool sigmoid) {
  std::vector<double> scores;
  double sum = 0;
  for (int e = 0; e < n; ++e) {
    const double l = logits[e];
    scores.push_back(sigmoid ? 1 / (1 + std::exp(-l)) : std::exp(l));
    sum += scores.back();
  }
  for (double& score : scores) score = sigmoid ? score : score / sum;
  return scores;
}

// Best first, each with its score, and nobody left out who is better than the last.
void check_row(const std::vector<double>& expected, const int* ids, const float* scores,
               int count) {
  std::set<int> seen;
  for (int r = 0; r < count; ++r) {
    REQUIRE(ids[r] >= 0);
    REQUIRE(ids[r] < static_cast<int>(expected.size()));
    REQUIRE(seen.insert(ids[r]).second);
    CHECK(scores[r] == Approx(expected[static_cast<size_t>(ids[r])]).epsilon(1e-5));
    if (r > 0) CHECK(scores[r] <= scores[r - 1]);
  }
  for (int e = 0; e < static_cast<int>(expected.size()); ++e) {
    if (!seen.contains(e)) CHECK(expected[static_cast<size_t>(e)] <= scores[count - 1] * 1.00001);
  }
}

}  // namespace

TEST_CASE("a GPU ranks experts as float64 does, with their scores") {
  struct Shape {
    int n_experts;
    int count;
    int n;
  };
  for (const Way& way : all_ways()) {
    for (const Shape s : {Shape{4, 4, 5},
                          {8, 2, 1},
                          {60, 8, 9},
                          {64, 16, 4},
                          {128, 16, 3},
                          {160, 12, 2},
                          {256, 16, 2},
                          {512, 20, 1}}) {
      for (const bool sigmoid : {false, true}) {
        std::mt19937 rng(static_cast<unsigned>(s.n_experts));
        const std::vector<float> logits = random_floats(rng, s.n * s.n_experts, 3.0F);
        const Top top = run(way, logits, s.n_experts, s.count, sigmoid);
        INFO(way.name << ": " << s.n_experts << " experts, " << s.count << " of them");
        for (int t = 0; t < s.n; ++t) {
          check_row(scores_of(logits.data() + t * s.n_experts, s.n_experts, sigmoid),
                    top.ids.data() + t * s.count, top.scores.data() + t * s.count, s.count);
        }
      }
    }
  }
}

TEST_CASE("of equal experts a GPU takes the lower ids, whatever their size") {
  const Way way = all_ways().front();
  for (const float value : {0.0F, -0.0F, 80.0F, -1e30F, 3e38F}) {
    const Top top = run(way, std::vector<float>(100, value), 100, 40, false);
    for (int r = 0; r < 40; ++r) CHECK(top.ids[static_cast<size_t>(r)] == r);
    CHECK(top.scores[0] == Approx(0.01));
  }
}

TEST_CASE("a row with a logit that is not finite selects nobody, and others are as they are") {
  const Way way = all_ways().front();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> logits(3 * 40, 0.0F);
    logits[40 + 35] = bad;
    const Top top = run(way, logits, 40, 2, true);
    CHECK(top.ids == std::vector<int>{0, 1, -1, -1, 0, 1});
  }
}

TEST_CASE("a GPU writes no scores where nobody wants them") {
  const std::vector<float> logits{1, 3, 2};
  std::vector<int> ids(2, -7);
  vgpu::Emulation emulation;
  gpu::kEmulatedOps.top_experts(&emulation, {logits.data(), 3, false, 2, ids.data(), nullptr}, 1);
  CHECK(ids == std::vector<int>{1, 2});
}

}  // namespace tandem::testing
