// What kernels are written with: CUDA's own names, and a few of ours for what CUDA only has as
// inline assembly. One source, two compilers: nvcc makes code for real GPUs of it
// (vgpu_cuda.h), g++ and clang make functions of it that run on the CPU, a fiber for each CUDA
// thread (vgpu_emulated.h), which is how kernels are tested where there is no GPU.
//
//   VGPU_KERNEL void scale(float* x, int n) {            // __global__
//     VGPU_SHARED(float, tile, 256);                     // __shared__ float tile[256]
//     ... threadIdx, blockIdx, blockDim, gridDim, __syncthreads(), __shfl_xor_sync() ...
//   }
//   VGPU_LAUNCH(scale, grid, block, dynamic_shared_bytes, stream, x, n);
//
// Kernels use nothing else of either compiler: no __shared__, no inline assembly.
#pragma once

#if defined(__CUDACC__)
#include "kernels/gpu/vgpu_cuda.h"
#else
#include "kernels/gpu/vgpu_emulated.h"
#endif

namespace VGPU_NAMESPACE {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr int kWarpSize = 32;

VGPU_DEVICE float warp_sum(float v) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    v += __shfl_xor_sync(kAllLanes, v, offset);
  }
  return v;
}

VGPU_DEVICE int warp_sum(int v) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    v += __shfl_xor_sync(kAllLanes, v, offset);
  }
  return v;
}

VGPU_DEVICE float warp_max(float v) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  }
  return v;
}

}  // namespace VGPU_NAMESPACE
