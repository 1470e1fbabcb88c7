// top_experts.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

// Shares of all experts, or sigmoids.
std::vector<double> scores_of(const float* logits, int n, bool sigmoid) {
  std::vector<double> scores;
  double sum = 0;
  for (int e = 0; e < n; ++e) {
    const double power = std::exp(static_cast<double>(logits[e]));
    scores.push_back(sigmoid ? power / (1 + power) : power);
    sum += power;
  }
  if (!sigmoid) {
    for (double& score : scores) score /= sum;
  }
  return scores;
}

void check_of(const OpContext& c, int n_experts, int count, bool sigmoid) {
  constexpr int kN = 6;
  const std::string text = fmt::format("{} of {} experts, {}, {}", count, n_experts,
                                       sigmoid ? "sigmoid" : "softmax", tokens_text(kN));
  c.check("top_experts", "", text, [&](DeviceMemory& memory, Comparison& comparison) {
    Random random(static_cast<uint32_t>(n_experts));
    const std::vector<float> values = random.floats(int64_t{kN} * n_experts, 4);
    const auto logits = memory.put(values);
    const auto ids = memory.room<int>(int64_t{kN} * count);
    const auto scores = memory.room<float>(int64_t{kN} * count);
    memory.run("top_experts", [&](const KernelScope& scope) {
      c.ops.top_experts(
          scope.stream(),
          {logits.in(scope), n_experts, sigmoid, count, ids.in(scope), scores.in(scope)}, kN);
    });
    const std::vector<int> got = memory.get(ids);
    const std::vector<float> got_scores = memory.get(scores);
    for (int t = 0; t < kN; ++t) {
      const std::vector<double> all =
          scores_of(values.data() + int64_t{t} * n_experts, n_experts, sigmoid);
      std::vector<int> order(at(n_experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return all[at(a)] > all[at(b)]; });
      for (int r = 0; r < count; ++r) {
        const int64_t i = int64_t{t} * count + r;
        const int id = got[at(i)];
        const bool there = id >= 0 && id < n_experts;
        comparison.require(there, fmt::format("token {} rank {}: expert {}", t, r, id));
        if (!there) continue;
        // Two that are nearly equal may change places: who is there has the score of the rank. exp
        // of two units in the last place, a sum of n_experts of them, a division.
        const double expected = all[at(order[at(r)])];
        const double tolerance = (n_experts + 8) * kRounding * expected;
        comparison.add(t, r, got_scores[at(i)], expected, tolerance);
        comparison.add(t, r, static_cast<float>(all[at(id)]), expected, tolerance);
        for (int before = 0; before < r; ++before) {
          comparison.require(got[at(i - 1 - before)] != id,
                             fmt::format("token {}: expert {} twice", t, id));
        }
      }
    }
  });
}

}  // namespace

void check_top_experts(const OpContext& context) {
  for (const bool sigmoid : {false, true}) {
    check_of(context, 8, 2, sigmoid);
    check_of(context, 60, 8, sigmoid);
    check_of(context, 128, 16, sigmoid);
    check_of(context, gpu::kMostExperts, 20, sigmoid);
  }
}

}  // namespace tandem
