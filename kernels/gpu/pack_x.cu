#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/pack_block.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kWarps = 4;

// A warp a block of columns.
template <int kParts>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kWarps* kWarpSize)
    pack_x_q8(const float* x, int n, int cols, uint8_t* to, int stride) {
  const int warp =
      static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  const int blocks = cols / (32 * kParts);
  if (warp >= n * blocks) return;
  const int64_t row = warp / blocks;
  pack_block_q8<kParts>(x + row * cols, cols, warp % blocks, to + row * stride);
}

VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kWarps* kWarpSize)
    pack_x_bf16(const float* x, int cols, uint8_t* to, int stride) {
  const int64_t row = blockIdx.x;  // of which there may be more than blockIdx.y counts
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (i < cols + cols % 2) pack_bf16(x + row * cols, cols, i, to + row * stride);
}

template <int kParts>
void launch_q8(void* stream, const float* x, int n, int cols, uint8_t* to, int stride) {
  const int blocks = n * (cols / (32 * kParts));
  if (blocks == 0) return;
  VGPU_LAUNCH(pack_x_q8<kParts>, dim3((blocks + kWarps - 1) / kWarps), dim3(kWarps * kWarpSize), 0,
              stream, x, n, cols, to, stride);
}

}  // namespace

void pack_x(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to, int stride) {
  switch (kind) {
    case XKind::kFloat:  // taken as they are
      return;
    case XKind::kBf16: {
      const int threads = kWarps * kWarpSize;
      if (n == 0 || cols == 0) return;
      VGPU_LAUNCH(pack_x_bf16, dim3(n, (cols + threads) / threads), dim3(threads), 0, stream, x,
                  cols, to, stride);
      return;
    }
    case XKind::kQ8:
      return launch_q8<1>(stream, x, n, cols, to, stride);
    case XKind::kQ8K:
      return launch_q8<8>(stream, x, n, cols, to, stride);
  }
}

}  // namespace VGPU_NAMESPACE
