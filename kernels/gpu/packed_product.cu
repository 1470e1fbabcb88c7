#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/packed_product.h"

namespace VGPU_NAMESPACE {
namespace {

// y[t, r] = W x (+ bias), t < tokens.n; blockIdx: group, tile of tokens.
template <DType kType, int kTiles>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    product_kernel(PackedWeights w, PackedX x, TokenList tokens, const float* bias, float* y) {
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

}  // namespace

void product(void* stream, DType type, const PackedWeights& w, const PackedX& x,
             const TokenList& tokens, const float* bias, float* y) {
  if (w.rows == 0 || tokens.n == 0) return;
  const auto groups = static_cast<unsigned>(w.rows + 15) / 16;
  const auto n = static_cast<unsigned>(tokens.n);
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if (tokens.n < kManyTokens) {
      VGPU_LAUNCH((product_kernel<kType, 1>), dim3(groups, (n + 7) / 8), dim3(kProductThreads), 0,
                  stream, w, x, tokens, bias, y);
    } else {
      VGPU_LAUNCH((product_kernel<kType, 2>), dim3(groups, (n + 15) / 16), dim3(kProductThreads), 0,
                  stream, w, x, tokens, bias, y);
    }
  });
}

}  // namespace VGPU_NAMESPACE
