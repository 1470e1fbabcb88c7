#include "runtime/refactor/adamw.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace tandem {
namespace {

constexpr int64_t kPiece = 1 << 16;  // numbers
constexpr float kMeanDecay = 0.9F;
constexpr float kSquareDecay = 0.99F;
constexpr float kEpsilon = 1e-8F;

}  // namespace

DecoupledRouter zero_router(const DecoupledShape& shape) {
  DecoupledRouter router;
  router.shape = shape;
  router.blocks.resize(static_cast<size_t>(shape.n_blocks));
  for_each_decoupled_tensor(router, [](const auto&, const auto& sides, auto& values) {
    int64_t n = 1;
    for (const int64_t side : sides) n *= side;
    values.assign(static_cast<size_t>(n), 0.0F);
  });
  return router;
}

AdamW::AdamW(DecoupledRouter* router, const DecoupledRouter& gradient)
    : means_(zero_router(router->shape)), squares_(zero_router(router->shape)) {
  std::vector<const std::vector<float>*> gradients;
  for_each_decoupled_tensor(
      gradient, [&](const auto&, const auto&, const auto& v) { gradients.push_back(&v); });
  std::vector<std::vector<float>*> moments;
  for (DecoupledRouter* moment : {&means_, &squares_}) {
    for_each_decoupled_tensor(
        *moment, [&](const auto&, const auto&, auto& values) { moments.push_back(&values); });
  }
  size_t i = 0;
  for_each_decoupled_tensor(*router, [&](const auto&, const auto& sides, auto& values) {
    TANDEM_CHECK(values.size() == gradients[i]->size() && values.size() == moments[i]->size(),
                 "tensor %zu", i);
    const auto size = static_cast<int64_t>(values.size());
    for (int64_t at = 0; at < size; at += kPiece) {
      pieces_.push_back({values.data() + at, gradients[i]->data() + at, moments[i]->data() + at,
                         moments[i + gradients.size()]->data() + at, std::min(kPiece, size - at),
                         sides.size() == 2});
    }
    ++i;
  });
  sums_.resize(pieces_.size());
}

double AdamW::gradient_norm(ParallelFor parallel) {
  parallel(static_cast<int64_t>(pieces_.size()), [&](int64_t task) {
    const Piece& piece = pieces_[static_cast<size_t>(task)];
    double sum = 0;
    for (int64_t i = 0; i < piece.n; ++i) {
      sum += static_cast<double>(piece.gradient[i]) * static_cast<double>(piece.gradient[i]);
    }
    sums_[static_cast<size_t>(task)] = sum;
  });
  double all = 0;
  for (const double sum : sums_) all += sum;
  return std::sqrt(all);
}

void AdamW::step(float scale, float learning_rate, float weight_decay, ParallelFor parallel) {
  ++n_steps_;
  // Running means begin at zero; these undo it.
  const auto n = static_cast<float>(n_steps_);
  const float mean_scale = 1 / (1 - std::pow(kMeanDecay, n));
  const float square_scale = 1 / (1 - std::pow(kSquareDecay, n));
  parallel(static_cast<int64_t>(pieces_.size()), [&](int64_t task) {
    const Piece& piece = pieces_[static_cast<size_t>(task)];
    const float kept = piece.is_matrix ? 1 - learning_rate * weight_decay : 1;
    for (int64_t i = 0; i < piece.n; ++i) {
      const float g = scale * piece.gradient[i];
      piece.mean[i] += (1 - kMeanDecay) * (g - piece.mean[i]);
      piece.square[i] += (1 - kSquareDecay) * (g * g - piece.square[i]);
      const float root = std::sqrt(square_scale * piece.square[i]);
      piece.value[i] =
          kept * piece.value[i] - learning_rate * mean_scale * piece.mean[i] / (root + kEpsilon);
    }
  });
}

}  // namespace tandem
