#include "runtime/pregate/refine.h"

#include <cmath>
#include <random>

#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

constexpr int kOutputs = 3;
constexpr int kWidth = 5;

Rows normals(int rows, int cols, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  return Rows::NullaryExpr(rows, cols, [&] { return normal(rng); });
}

Rows coins(int rows, int cols, uint32_t seed) {
  std::mt19937 rng(seed);
  return Rows::NullaryExpr(rows, cols, [&] { return rng() % 3 == 0 ? 1.0F : 0.0F; });
}

// Mean over tokens of the sum over outputs of -log P(what was), in double.
double loss(const Rows& weight, const Eigen::VectorXf& bias, const Rows& x, const Rows& used) {
  double sum = 0;
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    for (Eigen::Index o = 0; o < weight.rows(); ++o) {
      double z = static_cast<double>(bias[o]);
      for (Eigen::Index i = 0; i < x.cols(); ++i) {
        z += static_cast<double>(weight(o, i)) * static_cast<double>(x(t, i));
      }
      sum += std::log1p(std::exp(used(t, o) > 0 ? -z : z));
    }
  }
  return sum / static_cast<double>(x.rows());
}

// d loss by differences, of weight [o, i] or, behind the last column, of the bias.
double slope(Rows weight, Eigen::VectorXf bias, const Rows& x, const Rows& used, int o, int i) {
  constexpr float kStep = 1e-2F;
  float& value = i < kWidth ? weight(o, i) : bias[o];
  const float at = value;
  value = at + kStep;
  const double above = loss(weight, bias, x, used);
  value = at - kStep;
  return (above - loss(weight, bias, x, used)) / (2 * static_cast<double>(kStep));
}

}  // namespace

TEST_CASE("steps of a logistic regression are Adam's, written down in double") {
  const Rows first = normals(kOutputs, kWidth, 1);
  const Eigen::VectorXf first_bias = normals(kOutputs, 1, 2);
  constexpr int kSteps = 4;
  LogisticRegression regression(first, first_bias, kSteps);
  double mean[kOutputs][kWidth + 1] = {};
  double square[kOutputs][kWidth + 1] = {};
  double expected[kOutputs][kWidth + 1] = {};
  double rate[kOutputs] = {};
  for (int o = 0; o < kOutputs; ++o) {
    for (int i = 0; i <= kWidth; ++i) {
      expected[o][i] = static_cast<double>(i < kWidth ? first(o, i) : first_bias[o]);
      if (i < kWidth) rate[o] += expected[o][i] * expected[o][i] / kWidth;
    }
    rate[o] = 0.05 * std::sqrt(rate[o]);
  }
  for (int step = 0; step < kSteps; ++step) {
    const Rows x = normals(7, kWidth, 10 + static_cast<uint32_t>(step));
    const Rows used = coins(7, kOutputs, 20 + static_cast<uint32_t>(step));
    for (int o = 0; o < kOutputs; ++o) {
      for (int i = 0; i <= kWidth; ++i) {
        const double g = slope(regression.weight(), regression.bias(), x, used, o, i);
        mean[o][i] = 0.9 * mean[o][i] + 0.1 * g;
        square[o][i] = 0.999 * square[o][i] + 0.001 * g * g;
        const double now = rate[o] * (1 - static_cast<double>(step) / kSteps);
        expected[o][i] -= now * mean[o][i] / (1 - std::pow(0.9, step + 1)) /
                          std::sqrt(square[o][i] / (1 - std::pow(0.999, step + 1)));
      }
    }
    Rows overwritten = used;
    regression.step(x, &overwritten);
    for (int o = 0; o < kOutputs; ++o) {
      for (int i = 0; i <= kWidth; ++i) {
        const float got = i < kWidth ? regression.weight()(o, i) : regression.bias()[o];
        INFO("step " << step << ", output " << o << ", column " << i);
        CHECK(std::abs(static_cast<double>(got) - expected[o][i]) < 1e-3);
      }
    }
  }
  Rows one = coins(1, kOutputs, 3);
  CHECK(death_of([&] { regression.step(normals(1, kWidth, 3), &one); }).by_signal == SIGABRT);
}

TEST_CASE("a logistic regression finds the plane that separates") {
  const Rows plane = normals(1, kWidth, 5);
  LogisticRegression regression(0.1F * normals(1, kWidth, 6), Eigen::VectorXf::Zero(1), 2000);
  for (int step = 0; step < 2000; ++step) {
    const Rows x = normals(64, kWidth, 100 + static_cast<uint32_t>(step));
    Rows used = ((x * plane.transpose()).array() > 0.5F).cast<float>();
    regression.step(x, &used);
  }
  const Rows x = normals(1000, kWidth, 7);
  int right = 0;
  for (int t = 0; t < 1000; ++t) {
    const float guess = regression.weight().row(0).dot(x.row(t)) + regression.bias()[0];
    right += (guess > 0) == (plane.row(0).dot(x.row(t)) > 0.5F) ? 1 : 0;
  }
  CHECK(right > 970);
}

}  // namespace tandem::test
