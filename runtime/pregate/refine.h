// Logistic regression of who is selected: what refines a guess where ridge regression ends. Ridge
// regression brings all logits near, those of experts that nobody selects as much as those that
// decide.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "runtime/pregate/float_products.h"

namespace tandem {

// P(output) = 1 / (1 + exp(-(weight x + bias))), fitted step by step with Adam (Kingma and Ba,
// arXiv 1412.6980). A step's length is a share of the mean size of an output's first weights, and
// falls to nothing in a straight line.
class LogisticRegression {
 public:
  // weight: [outputs, d], bias: [outputs], to begin with; n_steps >= 1 are to follow.
  LogisticRegression(Rows weight, Eigen::VectorXf bias, int64_t n_steps);

  // inputs: [n, d], n >= 1; used: [n, outputs], 0 or 1; it is overwritten.
  void step(const Rows& inputs, Rows* used);

  const Rows& weight() const { return weight_; }
  const Eigen::VectorXf& bias() const { return bias_; }

 private:
  Rows weight_;
  Eigen::VectorXf bias_;
  Rows mean_, square_;  // of gradients, [outputs, d], moving averages
  Eigen::VectorXf bias_mean_, bias_square_;
  Eigen::VectorXf rate_;  // [outputs]
  Rows logits_, gradient_;
  FloatProducts products_;
  int64_t n_steps_;
  int64_t steps_ = 0;
};

}  // namespace tandem
