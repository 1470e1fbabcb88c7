// Lowers what was left open of an engine's sizes until it fits into a GPU's memory, as llama.cpp's
// --fit does: first the context, then the batch.
#pragma once

#include <functional>
#include <optional>

#include "runtime/engine/engine_shape.h"

namespace tandem {

// Equal to what is wanted where it must not be lowered.
struct FitLimits {
  int64_t least_ctx = 0;
  int64_t least_batch = 0;
};

inline constexpr int64_t kLeastFitContext = 512;
inline constexpr int64_t kLeastFitBatch = 64;

// The longest context, in steps of 256 tokens, with the largest batch that allows one at all;
// batches are halved. nullopt: not even the limits are small enough. `fits` holds for every smaller
// shape, too.
std::optional<EngineShape> fit_shape(const EngineShape& wanted, const FitLimits& limits,
                                     const std::function<bool(const EngineShape&)>& fits);

// A batch's price and what it is worth.
struct BatchValue {
  bool fits = false;
  int32_t n_slots = 0;
  double token_us = 0;  // of a prompt, modelled
};

inline constexpr int64_t kMostBatch = 4096;

// `first`, or one of its doubles up to `most`: each must take a tenth less time a token than the
// one before, and leave 95 % of the first one's slots.
int64_t best_batch(int64_t first, int64_t most, const std::function<BatchValue(int64_t)>& value);

// With another context and batch, and what follows from these.
EngineShape resized(EngineShape shape, int64_t n_ctx, int64_t n_batch);

}  // namespace tandem
