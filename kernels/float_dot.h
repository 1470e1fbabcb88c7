// Products of packed weights with activations that are not rounded: the reference, and what there
// is where no instruction set has better.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"
#include "kernels/simd.h"

namespace tandem {

inline constexpr int kMaxFloatTokens = 64;

// As SimdOps::dot_packed, with rows of f32 whatever the type, by dequantize() and dot() of the
// table in use. Columns are summed 256 at a time: calls cut them at multiples of that.
void dot_packed_float(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                      const Ahead& ahead, int64_t cols, int64_t first_col, int64_t n_cols,
                      const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride);

}  // namespace tandem
