// product() of many tokens.
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/product_parts.h"
#include "kernels/gpu/tile_product.h"

namespace VGPU_NAMESPACE {
namespace {

// blockIdx: tile of tokens, four groups.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS_2(kProductThreads)
    product_tile_kernel(ProductParts parts, PackedX x, int n) {
  VGPU_SHARED(TokenChunks, chunks, 1);
  int group =
      static_cast<int>(blockIdx.y) * kProductWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  const bool mine = group < all_groups(parts);
  const ProductPart part = part_of(parts, &group);
  const uint8_t* blocks = mine ? part.w.data + group * part.w.group_stride : nullptr;
  const int first = static_cast<int>(blockIdx.x) * kTileTokens;
  with_tiles(n - first, [&](auto constant) {
    constexpr int kTiles = decltype(constant)::value;
    float acc[1][kTiles][4] = {};
    tile_product<kType, kTiles, 1>({{blocks}, x.cols}, x, {nullptr, n}, first, chunks, acc);
    if (!mine) return;
    for_fragment<kTiles>([&](int i, int r, int t) {
      const int row = group * 16 + r;
      if (first + t >= n || row >= part.w.rows) return;
      write_sum(part, first + t, row, acc[0][i / 4][i % 4]);
    });
  });
}

}  // namespace

void product_tiles(void* stream, DType type, const ProductParts& parts, const PackedX& x, int n) {
  const auto groups = static_cast<unsigned>(all_groups(parts));
  const auto tokens = static_cast<unsigned>(n);
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      VGPU_LAUNCH(product_tile_kernel<kType>,
                  dim3((tokens + kTileTokens - 1) / kTileTokens,
                       (groups + kProductWarps - 1) / kProductWarps),
                  dim3(kProductThreads), 0, stream, parts, x, n);
    }
  });
}

}  // namespace VGPU_NAMESPACE
