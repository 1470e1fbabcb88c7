// y = W x for packed weights of any type: a block of threads for 16 rows of W (a group) and some
// tokens, its warps take blocks of columns in turn and add up in shared memory, in their order.
#pragma once

#include "kernels/gpu/packed_floats.h"

namespace VGPU_NAMESPACE {

inline constexpr int kProductWarps = 4;
inline constexpr int kProductThreads = kProductWarps * kWarpSize;

// The sums of a group by 8 * kTiles tokens: [token][row], by all threads of a block.
template <int kTiles>
struct GroupSums {
  static constexpr int kTokens = 8 * kTiles;
  float of[kTokens][16];
};

// sums = group `group` of w by tokens `first` … of x. `parts`: shared, [kProductWarps]. All threads
// of a block; sums are there for all when it returns.
template <DType kType, int kTiles>
VGPU_DEVICE void group_product(const PackedWeights& w, int group, const PackedX& x,
                               const TokenList& tokens, int first, GroupSums<kTiles>* parts,
                               GroupSums<kTiles>* sums) {
  using F = Format<kType>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const TokenTiles<kTiles> tiles(x, tokens, first);
  const uint8_t* blocks = w.data + group * w.group_stride;
  float acc[kTiles][4] = {};
  const int n_blocks = (w.cols + F::kCols - 1) / F::kCols;
  for (int b = warp; b < n_blocks; b += kProductWarps) {
    F::add(blocks + static_cast<int64_t>(b) * F::kBytes, tiles, w.cols, b * F::kCols, acc);
  }
  const Lane lane;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      parts[warp].of[8 * j + 2 * lane.t + i % 2][lane.g + i / 2 * 8] = acc[j][i];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 16 * GroupSums<kTiles>::kTokens;
       i += kProductThreads) {
    float sum = 0;
    for (int p = 0; p < kProductWarps; ++p) sum += parts[p].of[i / 16][i % 16];
    sums->of[i / 16][i % 16] = sum;
  }
  __syncthreads();
}

// y[t, r] = W x (+ bias), t < tokens.n; blockIdx: group, tile of tokens.
template <DType kType, int kTiles>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    product(PackedWeights w, PackedX x, TokenList tokens, const float* bias, float* y) {
  VGPU_SHARED(GroupSums<kTiles>, parts, kProductWarps);
  VGPU_SHARED(GroupSums<kTiles>, sums, 1);
  const int group = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(blockIdx.y) * GroupSums<kTiles>::kTokens;
  group_product<kType, kTiles>(w, group, x, tokens, first, parts, sums);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * GroupSums<kTiles>::kTokens;
       i += kProductThreads) {
    const int token = first + i / 16;
    const int row = group * 16 + i % 16;
    if (token >= tokens.n || row >= w.rows) continue;
    const float sum = sums->of[i / 16][i % 16];
    y[static_cast<int64_t>(token) * w.rows + row] = bias != nullptr ? sum + bias[row] : sum;
  }
}

}  // namespace VGPU_NAMESPACE
