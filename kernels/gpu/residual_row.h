// A row of the residual: what is added to it, its norm, and packed copies of that.
#pragma once

#include "kernels/gpu/pack_block.h"

namespace VGPU_NAMESPACE {

VGPU_DEVICE float with_addend(float value, const Addend& addend, int64_t token, int64_t at) {
  if (addend.x == nullptr) return value;
  const float scale = addend.gate != nullptr ? 1.0F / (1.0F + expf(-addend.gate[token])) : 1.0F;
  return fmaf(scale, addend.x[at], value);
}

// Squares are added up as by so many threads, however many there are: with the same bits.
inline constexpr int kSquareThreads = 256;
inline constexpr int kSquareWarps = kSquareThreads / kWarpSize;

// row = the token's sum, then (with a gain) its norm; by a block of kThreads threads. squares:
// shared, [kSquareWarps]. writes_sum: to call.y, too.
template <int kThreads>
VGPU_DEVICE void norm_row(const ResidualNorm& call, int64_t token, int d, bool writes_sum,
                          float* row, float* squares) {
  constexpr int kTimes = kSquareThreads / kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  float* y = call.y + token * d;
#pragma unroll
  for (int i = 0; i < kTimes; ++i) {
    float sum = 0;
    for (int c = i * kThreads + thread; c < d; c += kSquareThreads) {
      const int64_t at = token * d + c;
      float value = with_addend(y[c], call.addends[0], token, at);
      value = with_addend(value, call.addends[1], token, at);
      if (call.out != nullptr) {
        for (int u = call.uses.begin[token]; u < call.uses.begin[token + 1]; ++u) {
          const int use = call.uses.uses[u];
          value = fmaf(call.uses.weights[use], call.out[static_cast<int64_t>(use) * d + c], value);
        }
      }
      value = with_addend(value, call.addends[2], token, at);
      if (writes_sum) y[c] = value;
      row[c] = value;
      sum = fmaf(value, value, sum);
    }
    sum = warp_sum(sum);
    const int warp = (i * kThreads + thread) / kWarpSize;
    if (thread % kWarpSize == 0) squares[warp] = sum;
  }
  if (call.gain == nullptr) return;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kSquareWarps; ++w) sum += squares[w];
  const float scale = rsqrtf(sum / static_cast<float>(d) + call.eps);
  for (int c = thread; c < d; c += kThreads) row[c] = row[c] * scale * call.gain[c];
  __syncthreads();
}

// A normalised row to where it is wanted.
template <int kThreads>
VGPU_DEVICE void write_normed(const ResidualNorm& call, int64_t token, int d, const float* row) {
  if (call.normed != nullptr) {
    for (int c = static_cast<int>(threadIdx.x); c < d; c += kThreads) {
      call.normed[token * d + c] = row[c];
    }
  }
  const PackedCopies& copies = call.copies;
  if (copies.bf16 != nullptr) {
    pack_row<kThreads>(XKind::kBf16, row, d, copies.bf16 + token * copies.bf16_stride);
  }
  if (copies.q8 != nullptr) {
    pack_row<kThreads>(XKind::kQ8, row, d, copies.q8 + token * copies.q8_stride);
  }
  if (copies.q8_k != nullptr) {
    pack_row<kThreads>(XKind::kQ8K, row, d, copies.q8_k + token * copies.q8_k_stride);
  }
}

}  // namespace VGPU_NAMESPACE
