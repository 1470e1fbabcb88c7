#include "runtime/pregate/platt.h"

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a calibration finds the curve that outcomes were drawn from") {
  std::mt19937 rng(1);
  std::normal_distribution<float> margin(-1.0F, 2.0F);
  std::uniform_real_distribution<double> draw(0, 1);
  const PlattCurve real{1.7, -0.6};
  std::vector<float> margins;
  std::vector<uint8_t> used;
  for (int i = 0; i < 200000; ++i) {
    margins.push_back(margin(rng));
    used.push_back(draw(rng) < real.probability(static_cast<double>(margins.back())) ? 1 : 0);
  }
  const PlattCurve found = fit_platt(margins, used);
  CHECK(std::abs(found.scale - real.scale) < 0.05);
  CHECK(std::abs(found.offset - real.offset) < 0.03);
}

// Nelder-Mead would do as well: no step in any direction may lower the likelihood's negative.
TEST_CASE("no curve nearby explains the outcomes better") {
  const std::vector<float> margins{-3, -2, -1.5F, -1, -0.5F, 0.2F, 0.4F, 1, 2, 3};
  const std::vector<uint8_t> used{0, 0, 1, 0, 0, 1, 0, 1, 1, 1};
  const double high = 6.0 / 7;
  const double low = 1.0 / 7;
  const auto loss = [&](const PlattCurve& curve) {
    double sum = 0;
    for (size_t i = 0; i < margins.size(); ++i) {
      const double p = curve.probability(static_cast<double>(margins[i]));
      const double target = used[i] != 0 ? high : low;
      sum -= target * std::log(p) + (1 - target) * std::log(1 - p);
    }
    return sum;
  };
  const PlattCurve found = fit_platt(margins, used);
  const double best = loss(found);
  for (const double step : {1e-3, 1e-2, 0.1, 1.0}) {
    for (int side = 0; side < 8; ++side) {
      const double angle = side * 3.14159265358979 / 4;
      CHECK(loss({found.scale + step * std::cos(angle), found.offset + step * std::sin(angle)}) >
            best);
    }
  }
}

TEST_CASE("margins that separate all give a finite curve, and so do outcomes that are all alike") {
  const PlattCurve apart =
      fit_platt(std::vector<float>{-2, -1, 1, 2}, std::vector<uint8_t>{0, 0, 1, 1});
  CHECK(std::isfinite(apart.scale));
  CHECK(apart.probability(2) > 0.6);
  CHECK(apart.probability(-2) < 0.4);
  const PlattCurve never = fit_platt(std::vector<float>{-2, -1, 1, 2}, std::vector<uint8_t>(4, 0));
  CHECK(std::isfinite(never.scale));
  CHECK(std::isfinite(never.offset));
  CHECK(never.probability(0) < 0.3);
  const PlattCurve nothing = fit_platt({}, {});
  CHECK(nothing.probability(0) == Approx(0.5));
}

}  // namespace tandem::test
