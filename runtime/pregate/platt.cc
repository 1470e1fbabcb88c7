#include "runtime/pregate/platt.h"

#include <algorithm>
#include <cmath>

namespace tandem {

double PlattCurve::probability(double margin) const {
  return 1 / (1 + std::exp(-(scale * margin + offset)));
}

PlattCurve fit_platt(std::span<const float> margins, std::span<const uint8_t> used) {
  const auto n = static_cast<double>(margins.size());
  const auto n_used = static_cast<double>(std::count(used.begin(), used.end(), uint8_t{1}));
  const double high = (n_used + 1) / (n_used + 2);
  const double low = 1 / (n - n_used + 2);
  const auto loss = [&](const PlattCurve& curve) {
    double sum = 0;
    for (size_t i = 0; i < margins.size(); ++i) {
      const double z = curve.scale * static_cast<double>(margins[i]) + curve.offset;
      const double target = used[i] != 0 ? high : low;
      // -log P of the target, without overflow.
      sum += std::max(z, 0.0) - z * target + std::log1p(std::exp(-std::abs(z)));
    }
    return sum;
  };
  PlattCurve curve{0, std::log((n_used + 1) / (n - n_used + 1))};
  double best = loss(curve);
  constexpr int kMostSteps = 100;
  for (int step = 0; step < kMostSteps; ++step) {
    constexpr double kFloor = 1e-12;  // of the second derivatives
    double g0 = 0;
    double g1 = 0;
    double h00 = kFloor;
    double h01 = 0;
    double h11 = kFloor;
    for (size_t i = 0; i < margins.size(); ++i) {
      const auto m = static_cast<double>(margins[i]);
      const double p = curve.probability(m);
      const double miss = p - (used[i] != 0 ? high : low);
      const double weight = p * (1 - p);
      g0 += miss * m;
      g1 += miss;
      h00 += weight * m * m;
      h01 += weight * m;
      h11 += weight;
    }
    const double det = h00 * h11 - h01 * h01;
    if (!(std::abs(det) > 0)) break;
    const double d0 = (h11 * g0 - h01 * g1) / det;
    const double d1 = (h00 * g1 - h01 * g0) / det;
    double length = 1;  // halved until the loss falls
    PlattCurve next = curve;
    double there = best;
    for (; length > 1e-10; length /= 2) {
      next = {curve.scale - length * d0, curve.offset - length * d1};
      there = loss(next);
      if (there < best) break;
    }
    if (!(there < best)) break;
    const double gained = best - there;
    curve = next;
    best = there;
    if (gained < 1e-9 * n) break;
  }
  return curve;
}

}  // namespace tandem
