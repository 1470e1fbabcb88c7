// Dense matrix products and embedding lookup on quantised weights.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/parallel.h"
#include "kernels/tensor.h"
#include "kernels/workspace.h"

namespace tandem {

// y[t, r] = sum_c W[r, c] * x[t, c] (+ bias[r])
// w: [rows, cols]; x: [n, cols] f32, rows x_stride apart; y: [n, rows] f32, rows y_stride apart;
// bias: [rows] f32 or nullptr. x is rounded as x_kind(w.type) says. Bytes moved: w.bytes() once per
// 128 tokens. No allocation once `scratch` has its size.
// The order of additions depends on w.cols and on nothing else, so a token's result is the same in
// every batch split, on any threads, and whether w is packed or not.
void matmul(const WeightView& w, const float* bias, const float* x, int64_t x_stride, int64_t n,
            float* y, int64_t y_stride, Workspace& scratch, ParallelFor parallel);

// y[t, :] = row ids[t] of w, as f32. w: [vocab, d]; y: [ids.size(), d] f32.
void embed(const WeightView& w, std::span<const int32_t> ids, float* y);

}  // namespace tandem
