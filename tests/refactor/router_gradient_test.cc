#include "runtime/refactor/router_gradient.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "tests/support/catch.h"
#include "tests/support/decoupled_reference.h"

namespace tandem::test {
namespace {

DecoupledShape small_shape() {
  DecoupledShape shape;
  shape.n_vocab = 7;
  shape.width = 12;
  shape.n_heads = 3;
  shape.n_blocks = 2;
  shape.ff = 5;
  shape.n_experts = 4;
  shape.n_layers = 1;
  shape.rope_base = 50;
  shape.attention_scale = 0.8F;
  return shape;
}

std::vector<float> random_targets(size_t n_tokens, int32_t n_experts, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> any(0, 1);
  std::vector<float> out;
  for (size_t t = 0; t < n_tokens; ++t) {
    std::vector<float> row;
    float sum = 0;
    for (int32_t e = 0; e < n_experts; ++e) sum += row.emplace_back(any(random));
    for (const float v : row) out.push_back(v / sum);
  }
  return out;
}

// In float64, by the reference.
double loss_of(const DecoupledRouter& router, const std::vector<int32_t>& tokens,
               const std::vector<float>& targets) {
  double loss = 0;
  const std::vector<Doubles> logits = reference_logits(router, tokens);
  for (size_t t = 0; t < logits.size(); ++t) {
    double sum = 0;
    for (const double v : logits[t]) sum += std::exp(v);
    for (size_t e = 0; e < logits[t].size(); ++e) {
      const auto target = static_cast<double>(targets[t * logits[t].size() + e]);
      loss -= target * (logits[t][e] - std::log(sum));
    }
  }
  return loss;
}

void check_gradient(DecoupledRouter router) {
  const std::vector<int32_t> tokens{3, 1, 6, 3, 0, 5, 2, 2, 1};  // 4 is not among them
  const std::vector<float> targets = random_targets(tokens.size(), router.shape.n_experts, 2);
  RouterGradient gradient(router.shape, 16);
  gradient.run(router, random_tokens(16, 7, 3), random_targets(16, 4, 4));  // leaves nothing behind
  const double loss = gradient.run(router, tokens, targets);
  CHECK(std::abs(loss - loss_of(router, tokens, targets)) < 1e-5 * loss);

  std::vector<std::pair<std::string, std::vector<float>>> got;
  for_each_decoupled_tensor(gradient.gradient(),
                            [&](const std::string& name, const auto&, const auto& values) {
                              got.emplace_back(name, values);
                            });
  const auto width = static_cast<size_t>(router.shape.width);
  REQUIRE(gradient.row_gradients().size() == tokens.size() * width);
  got[0].second.assign(router.embed.size(), 0.0F);
  for (size_t i = 0; i < tokens.size() * width; ++i) {
    const auto row = static_cast<size_t>(tokens[i / width]);
    got[0].second[row * width + i % width] += gradient.row_gradients()[i];
  }

  size_t tensor = 0;
  for_each_decoupled_tensor(router, [&](const std::string& name, const auto&, auto& values) {
    REQUIRE(got[tensor].first == name);
    const std::vector<float>& analytic = got[tensor++].second;
    REQUIRE(analytic.size() == values.size());
    double worst = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = values[i];
      const float up = value + 1e-3F;
      const float down = value - 1e-3F;
      values[i] = up;
      const double above = loss_of(router, tokens, targets);
      values[i] = down;
      const double below = loss_of(router, tokens, targets);
      values[i] = value;
      const double expected =
          (above - below) / (static_cast<double>(up) - static_cast<double>(down));
      const double error = std::abs(expected - static_cast<double>(analytic[i]));
      worst = std::max(worst, error / (1 + std::abs(expected)));
    }
    INFO(name);
    CHECK(worst < 2e-5);
  });
}

}  // namespace

TEST_CASE("the gradient of a router's loss is that of central differences in float64") {
  DecoupledShape shape = small_shape();
  check_gradient(made_up_router(shape, 1));
  shape.window = 3;
  check_gradient(made_up_router(shape, 1));
}

}  // namespace tandem::test
