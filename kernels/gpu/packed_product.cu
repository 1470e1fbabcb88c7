#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/pack_block.h"
#include "kernels/gpu/packed_product.h"
#include "kernels/gpu/product_parts.h"
#include "kernels/gpu/residual_row.h"

namespace VGPU_NAMESPACE {
namespace {

// y of a group by 8 * kTiles tokens from `first` on.
template <DType kType, int kTiles>
VGPU_DEVICE void write_group(const ProductPart& part, int group, const PackedX& x, int n,
                             int first) {
  VGPU_SHARED(GroupSums<kTiles>, parts, kProductWarps);
  VGPU_SHARED(GroupSums<kTiles>, sums, 1);
  group_product<kType, kTiles>(part.w, group, x, {nullptr, n}, first, parts, sums);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * GroupSums<kTiles>::kTokens;
       i += kProductThreads) {
    const int token = first + i / 16;
    const int row = group * 16 + i % 16;
    if (token >= n || row >= part.w.rows) continue;
    write_sum(part, token, row, sums->of[i / 16][i % 16]);
  }
}

// blockIdx: group, tile of tokens.
template <DType kType, int kTiles>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    product_kernel(ProductParts parts, PackedX x, int n) {
  int group = static_cast<int>(blockIdx.x);
  const ProductPart part = part_of(parts, &group);
  write_group<kType, kTiles>(part, group, x, n,
                             static_cast<int>(blockIdx.y) * GroupSums<kTiles>::kTokens);
}

// blockIdx: group. Every block packs all of x.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    product_few_kernel(ProductParts parts, const float* x, int n, int cols, int stride) {
  VGPU_DYNAMIC_SHARED(uint8_t, rows);
  for (int t = 0; t < n; ++t) {
    pack_row<kProductThreads>(kXKind<kType>, x + static_cast<int64_t>(t) * cols, cols,
                              rows + t * stride);
  }
  __syncthreads();
  int group = static_cast<int>(blockIdx.x);
  const ProductPart part = part_of(parts, &group);
  write_group<kType, 1>(part, group, {rows, stride, cols}, n, 0);
}

// blockIdx: group. Every block normalises all rows; the first writes them. rows: what products
// read, n * stride bytes, and behind that a row of f32 unless they read f32 themselves.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    norm_product_kernel(ResidualNorm call, ProductParts parts, int n, int d, int stride) {
  VGPU_DYNAMIC_SHARED(uint8_t, rows);
  VGPU_SHARED(float, squares, kSquareWarps);
  constexpr bool kFloats = kXKind<kType> == XKind::kFloat;
  for (int t = 0; t < n; ++t) {
    auto* row = reinterpret_cast<float*>(rows + (kFloats ? t : n) * stride);
    norm_row<kProductThreads>(call, t, d, false, row, squares);
    if (blockIdx.x == 0) write_normed<kProductThreads>(call, t, d, row);
    if (!kFloats) pack_row<kProductThreads>(kXKind<kType>, row, d, rows + t * stride);
    __syncthreads();
  }
  int group = static_cast<int>(blockIdx.x);
  const ProductPart part = part_of(parts, &group);
  write_group<kType, 1>(part, group, {rows, stride, d}, n, 0);
}

}  // namespace

void product(void* stream, DType type, const ProductParts& parts, const PackedX& x, int n) {
  const auto groups = static_cast<unsigned>(all_groups(parts));
  if (groups == 0 || n == 0) return;
  const auto tokens = static_cast<unsigned>(n);
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      if (n >= kTileFrom) {
        product_tiles(stream, kType, parts, x, n);
        return;
      }
    }
    if (n < kManyTokens) {
      VGPU_LAUNCH((product_kernel<kType, 1>), dim3(groups, (tokens + 7) / 8), dim3(kProductThreads),
                  0, stream, parts, x, n);
    } else {
      VGPU_LAUNCH((product_kernel<kType, 2>), dim3(groups, (tokens + 15) / 16),
                  dim3(kProductThreads), 0, stream, parts, x, n);
    }
  });
}

void product_few(void* stream, DType type, const ProductParts& parts, const float* x, int n,
                 int cols, int stride) {
  const auto groups = static_cast<unsigned>(all_groups(parts));
  if (groups == 0 || n == 0) return;
  with_type(type, [&](auto constant) {
    VGPU_LAUNCH(product_few_kernel<constant()>, dim3(groups), dim3(kProductThreads),
                static_cast<size_t>(n) * static_cast<size_t>(stride), stream, parts, x, n, cols,
                stride);
  });
}

void norm_product(void* stream, DType type, const ResidualNorm& call, const ProductParts& parts,
                  int n, int d, int stride) {
  const auto groups = static_cast<unsigned>(all_groups(parts));
  if (groups == 0 || n == 0) return;
  with_type(type, [&](auto constant) {
    VGPU_LAUNCH(norm_product_kernel<constant()>, dim3(groups), dim3(kProductThreads),
                static_cast<size_t>(norm_here_bytes(kXKind<constant()>, n, d, stride)), stream,
                call, parts, n, d, stride);
  });
}

}  // namespace VGPU_NAMESPACE
