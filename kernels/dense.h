// Dense matrix products and embedding lookup on quantised weights.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/parallel.h"
#include "kernels/tensor.h"

namespace tandem {

// y[t, r] = sum_c W[r, c] * x[t, c] (+ bias[r])
// w: [rows, cols]; x: [n, cols] f32, rows x_stride apart; y: [n, rows] f32, rows y_stride apart;
// bias: [rows] f32 or nullptr. Bytes moved: w.bytes() once per 128 tokens. No allocation.
// The order of additions depends on w.cols and on nothing else, so a token's result is the same in
// every batch split and on any threads.
void matmul(const WeightView& w, const float* bias, const float* x, int64_t x_stride, int64_t n,
            float* y, int64_t y_stride, ParallelFor parallel);

// y[t, :] = row ids[t] of w, as f32. w: [vocab, d]; y: [ids.size(), d] f32.
void embed(const WeightView& w, std::span<const int32_t> ids, float* y);

}  // namespace tandem
