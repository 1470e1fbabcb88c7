#include "runtime/pregate/refine.h"

#include <cmath>
#include <utility>

#include "kernels/check.h"

namespace tandem {
namespace {

constexpr float kRate = 0.05F;  // of a first weight
constexpr float kMeanKept = 0.9F;
constexpr float kSquareKept = 0.999F;
constexpr float kLeast = 1e-8F;  // of a gradient's size

}  // namespace

LogisticRegression::LogisticRegression(Rows weight, Eigen::VectorXf bias, int64_t n_steps)
    : weight_(std::move(weight)),
      bias_(std::move(bias)),
      mean_(Rows::Zero(weight_.rows(), weight_.cols())),
      square_(Rows::Zero(weight_.rows(), weight_.cols())),
      bias_mean_(Eigen::VectorXf::Zero(weight_.rows())),
      bias_square_(Eigen::VectorXf::Zero(weight_.rows())),
      rate_(kRate *
            (weight_.rowwise().squaredNorm() / static_cast<float>(weight_.cols())).cwiseSqrt()),
      gradient_(weight_.rows(), weight_.cols()),
      n_steps_(n_steps) {}

void LogisticRegression::step(const Rows& inputs, Rows* used) {
  TANDEM_CHECK(steps_ < n_steps_, "%lld steps", static_cast<long long>(n_steps_));
  products_.rows_by_rows(inputs, weight_, &logits_);
  logits_.rowwise() += bias_.transpose();
  // What P lacks to what was used, of the mean over tokens.
  Rows& error = *used;
  error.array() =
      (1 / (1 + (-logits_.array()).exp()) - error.array()) / static_cast<float>(inputs.rows());
  products_.columns_by_columns(error, inputs, &gradient_);
  const Eigen::VectorXf bias_gradient = error.colwise().sum();

  const float left = 1 - static_cast<float>(steps_) / static_cast<float>(n_steps_);
  ++steps_;
  const auto t = static_cast<float>(steps_);
  const float mean_part = 1 - std::pow(kMeanKept, t);  // of the averages that has been seen
  const float root_part = std::sqrt(1 - std::pow(kSquareKept, t));
  const auto move = [&](auto&& values, auto&& mean, auto&& square, auto&& gradient, auto&& rate) {
    mean = kMeanKept * mean + (1 - kMeanKept) * gradient;
    square = kSquareKept * square + (1 - kSquareKept) * gradient.square();
    values -= rate * (left / mean_part) * mean / (square.sqrt() / root_part + kLeast);
  };
  for (int64_t o = 0; o < weight_.rows(); ++o) {
    move(weight_.row(o).array(), mean_.row(o).array(), square_.row(o).array(),
         gradient_.row(o).array(), rate_[o]);
  }
  move(bias_.array(), bias_mean_.array(), bias_square_.array(), bias_gradient.array(),
       rate_.array());
}

}  // namespace tandem
