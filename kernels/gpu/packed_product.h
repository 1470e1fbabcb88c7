// y = W x for packed weights of any type: a block of threads for 16 rows of W (a group) and some
// tokens, its warps take blocks of columns in turn and add up in shared memory, in their order.
#pragma once

#include <type_traits>

#include "kernels/gpu/packed_floats.h"
#include "kernels/packed.h"

namespace VGPU_NAMESPACE {

inline constexpr int kProductWarps = 4;
inline constexpr int kProductThreads = kProductWarps * kWarpSize;

// How weights of a type want their activations; here, because device code calls no host function.
template <DType kType>
inline constexpr XKind kXKind = rounded_x_kind(kType);

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
  // Where a row of x ends, behind which it has scales: w may have fewer columns. Floats have none.
  constexpr bool kFloats = kType == DType::kF32 || kType == DType::kF16 || kType == DType::kBF16;
  const int cols = kFloats ? w.cols : x.cols;
  const int n_blocks = (w.cols + F::kCols - 1) / F::kCols;
  for (int b = warp; b < n_blocks; b += kProductWarps) {
    F::add(blocks + static_cast<int64_t>(b) * F::kBytes, tiles, cols, b * F::kCols, acc);
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

// From so many tokens on, tiles of 16 at a time.
inline constexpr int kManyTokens = 9;
// And tile_product.h, where products are of tensor cores: fewer tokens are rather divided among
// more blocks.
inline constexpr int kTileFrom = 17;
template <DType kType>
inline constexpr bool kTiled = kXKind<kType> != XKind::kFloat;

// f(std::integral_constant<DType, type>)
template <typename F>
void with_type(DType type, const F& f) {
  switch (type) {
    case DType::kF32:
      return f(std::integral_constant<DType, DType::kF32>{});
    case DType::kF16:
      return f(std::integral_constant<DType, DType::kF16>{});
    case DType::kBF16:
      return f(std::integral_constant<DType, DType::kBF16>{});
    case DType::kQ4_0:
      return f(std::integral_constant<DType, DType::kQ4_0>{});
    case DType::kQ5_0:
      return f(std::integral_constant<DType, DType::kQ5_0>{});
    case DType::kQ8_0:
      return f(std::integral_constant<DType, DType::kQ8_0>{});
    case DType::kQ4_K:
      return f(std::integral_constant<DType, DType::kQ4_K>{});
    case DType::kQ5_K:
      return f(std::integral_constant<DType, DType::kQ5_K>{});
    case DType::kQ6_K:
      return f(std::integral_constant<DType, DType::kQ6_K>{});
  }
}

}  // namespace VGPU_NAMESPACE
