#include "runtime/refactor/adamw.h"

#include <cmath>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

DecoupledShape tiny_shape() {
  DecoupledShape shape;
  shape.n_vocab = 2;
  shape.width = 2;
  shape.ff = 1;
  shape.n_experts = 2;
  shape.n_layers = 1;
  return shape;
}

}  // namespace

TEST_CASE("AdamW takes the steps of its formula, and matrices alone decay") {
  DecoupledRouter router = zero_router(tiny_shape());
  DecoupledRouter gradient = zero_router(tiny_shape());
  router.embed[1] = 2;
  router.out_norm[0] = 2;
  AdamW optimizer(&router, gradient);
  double matrix = 2;
  double gain = 2;
  double mean = 0;
  double square = 0;
  for (int step = 1; step <= 5; ++step) {
    const double g = 0.3 * step - 0.7;
    gradient.embed[1] = static_cast<float>(4 * g);
    gradient.out_norm[0] = static_cast<float>(4 * g);
    CHECK(std::abs(optimizer.gradient_norm(serial_for) - 4 * std::sqrt(2.0) * std::abs(g)) < 1e-6);
    optimizer.step(0.25F, 0.1F, 0.5F, serial_for);
    mean = 0.9 * mean + 0.1 * g;
    square = 0.99 * square + 0.01 * g * g;
    const double move = 0.1 * (mean / (1 - std::pow(0.9, step))) /
                        (std::sqrt(square / (1 - std::pow(0.99, step))) + 1e-8);
    matrix = matrix - 0.1 * 0.5 * matrix - move;
    gain = gain - move;
    CHECK(std::abs(static_cast<double>(router.embed[1]) - matrix) < 1e-5);
    CHECK(std::abs(static_cast<double>(router.out_norm[0]) - gain) < 1e-5);
    CHECK(router.embed[0] == 0);
  }
}

}  // namespace tandem::test
