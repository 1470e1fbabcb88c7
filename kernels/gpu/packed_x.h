// Rows of activations as products take them: what pack_x() of kernels/packed.h makes, byte for
// byte, in device memory; and a warp's view of eight of them at a time.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

// What lane 4 g + t of a warp reads of kTiles times eight tokens: of token g of each tile all
// values (fragment B), of tokens 2t and 2t + 1 their scales and sums (fragment C). Tokens behind
// the last are the last again.
template <int kTokenTiles>
struct TokenTiles {
  static constexpr int kTiles = kTokenTiles;
  const uint8_t* base;
  int own_offset[kTiles];
  int pair_offset[kTiles][2];

  VGPU_DEVICE TokenTiles(const PackedX& x, const TokenList& tokens, int first) : base(x.rows) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const auto offset = [&](int i) {
      const int token = i < tokens.n ? i : tokens.n - 1;
      return (tokens.rows != nullptr ? tokens.rows[token] : token) * x.stride;
    };
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      own_offset[j] = offset(first + 8 * j + lane / 4);
      pair_offset[j][0] = offset(first + 8 * j + lane % 4 * 2);
      pair_offset[j][1] = offset(first + 8 * j + lane % 4 * 2 + 1);
    }
  }
  VGPU_DEVICE const uint8_t* own(int j) const { return base + own_offset[j]; }
  VGPU_DEVICE const uint8_t* pair(int j, int i) const { return base + pair_offset[j][i]; }
};

}  // namespace VGPU_NAMESPACE
