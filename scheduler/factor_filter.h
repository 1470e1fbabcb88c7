// Learns by what factors N costs are off, from times that are sums of several of them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace tandem {

// A Kalman filter (Journal of Basic Engineering 82, 1960) whose state is what each cost has to be
// multiplied by. All start at 1; what is never seen stays there, and what is seen together is
// shared out by how much is known about each. Does not allocate.
template <size_t N>
class FactorFilter {
 public:
  using Terms = std::array<double, N>;

  // spread: how wrong each cost is taken to be at first, as a share of it.
  explicit FactorFilter(const Terms& spread) : spread_(spread) {
    factors_.fill(1);
    for (size_t i = 0; i < N; ++i) variance_[i][i] = spread[i] * spread[i];
  }

  const Terms& factors() const { return factors_; }

  // Something took `took` where the corrected costs say `expected`; both in microseconds, as are
  // the parts: how much longer it is expected to take when one of the costs doubles.
  void learn(const Terms& parts, double expected, double took) {
    if (expected <= 0) return;
    double error = took / expected - 1;
    if (std::abs(error) < kRounding) return;
    Terms gain{};
    double variance = kNoise * kNoise;
    for (size_t i = 0; i < N; ++i) {
      for (size_t j = 0; j < N; ++j) gain[i] += variance_[i][j] * parts[j] / expected;
      variance += gain[i] * parts[i] / expected;
    }
    const double most = kBelievable * std::sqrt(variance);
    error = std::clamp(error, -most, most);
    for (size_t i = 0; i < N; ++i) {
      factors_[i] = std::clamp(factors_[i] * (1 + gain[i] / variance * error), kLeast, kMost);
      for (size_t j = 0; j < N; ++j) variance_[i][j] -= gain[i] * gain[j] / variance;
      const double later = variance_[i][i] + kDrift * kDrift;
      if (later < spread_[i] * spread_[i]) variance_[i][i] = later;
    }
  }

 private:
  static constexpr double kNoise = 0.1;      // of a single time
  static constexpr double kDrift = 0.002;    // of a factor, from one time to the next
  static constexpr double kBelievable = 3;   // standard deviations; more counts as so many
  static constexpr double kRounding = 1e-4;  // smaller errors are not worth a change
  // A cost beside another user of the memory is wrong by so much where the cost model has it at its
  // least, a twentieth of the rate alone.
  static constexpr double kMost = 20;
  static constexpr double kLeast = 1 / kMost;

  Terms spread_;
  Terms factors_;
  std::array<Terms, N> variance_{};
};

}  // namespace tandem
