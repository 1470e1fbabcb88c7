// What stands between two groups of products: a token's residual gets what they gave, is
// normalised, and the result packed, in one kernel.
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/residual_row.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kThreads = kSquareThreads;

// A block of threads a token.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads) residual_norm_kernel(ResidualNorm call, int d) {
  VGPU_DYNAMIC_SHARED(float, row);  // [d]
  VGPU_SHARED(float, squares, kSquareWarps);
  const int64_t token = blockIdx.x;
  const bool adds = call.out != nullptr || call.addends[0].x != nullptr ||
                    call.addends[1].x != nullptr || call.addends[2].x != nullptr;
  norm_row<kThreads>(call, token, d, adds, row, squares);
  if (call.gain != nullptr) write_normed<kThreads>(call, token, d, row);
}

}  // namespace

void residual_norm(void* stream, const ResidualNorm& call, int n, int d) {
  if (n == 0 || d == 0) return;
  VGPU_LAUNCH(residual_norm_kernel, dim3(static_cast<unsigned>(n)), dim3(kThreads),
              sizeof(float) * static_cast<size_t>(d), stream, call, d);
}

}  // namespace VGPU_NAMESPACE
