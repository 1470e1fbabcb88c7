#include "runtime/engine/fit.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int64_t kContextStep = 256;  // llama.cpp's

// 0: not even limits.least_ctx fits.
int64_t longest_context(int64_t wanted, int64_t least, const std::function<bool(int64_t)>& fits) {
  if (fits(wanted)) return wanted;
  if (least >= wanted || !fits(least)) return 0;
  // Counted in steps: `low` fits, `high` does not.
  int64_t low = least / kContextStep;
  int64_t high = (wanted + kContextStep - 1) / kContextStep;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle * kContextStep) ? low : high) = middle;
  }
  return std::max(low * kContextStep, least);
}

}  // namespace

EngineShape resized(EngineShape shape, int64_t n_ctx, int64_t n_batch) {
  shape.n_ctx = n_ctx;
  shape.n_batch = std::min(n_batch, n_ctx);
  shape.max_logits = std::min(shape.max_logits, shape.n_batch);
  return shape;
}

std::optional<EngineShape> fit_shape(const EngineShape& wanted, const FitLimits& limits,
                                     const std::function<bool(const EngineShape&)>& fits) {
  for (int64_t batch = wanted.n_batch;; batch = std::max(batch / 2, limits.least_batch)) {
    const int64_t n_ctx = longest_context(wanted.n_ctx, limits.least_ctx, [&](int64_t length) {
      return fits(resized(wanted, length, batch));
    });
    if (n_ctx > 0) return resized(wanted, n_ctx, batch);
    if (batch <= limits.least_batch) return std::nullopt;
  }
}

int64_t best_batch(int64_t first, int64_t most, const std::function<BatchValue(int64_t)>& value) {
  const BatchValue usual = value(first);
  int64_t best = first;
  double best_us = usual.token_us;
  while (2 * best <= most) {
    const BatchValue larger = value(2 * best);
    if (!larger.fits || larger.n_slots < 0.95 * usual.n_slots) break;
    if (larger.token_us > 0.9 * best_us) break;
    best *= 2;
    best_us = larger.token_us;
  }
  return best;
}

}  // namespace tandem
