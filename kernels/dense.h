// Dense matrix products and embedding lookup on quantised weights.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/parallel.h"
#include "kernels/tensor.h"
#include "kernels/workspace.h"

namespace tandem {

// A matrix [rows, cols] that the tokens are multiplied with, and where the products go.
struct MatmulPart {
  WeightView w;
  const float* bias;  // [rows] f32 or nullptr
  float* y;           // [n, rows] f32
};

// Of each part: y[t, r] = sum_c W[r, c] * x[t, c] (+ bias[r]); all have the same cols.
// x: [n, cols] f32, rounded as x_kind(w.type) says. Bytes moved: w.bytes() once per 128 tokens. No
// allocation once `scratch` has its size.
// The order of additions depends on cols and on nothing else, so a token's result is the same in
// every batch split, on any threads, and whether w is packed or not.
void matmul(std::span<const MatmulPart> parts, const float* x, int64_t n, Workspace& scratch,
            ParallelFor parallel);

// y[t, :] = row ids[t] of w, as f32. w: [vocab, d]; y: [ids.size(), d] f32.
void embed(const WeightView& w, std::span<const int32_t> ids, float* y);

}  // namespace tandem
