// vgpu.h for nvcc. The instructions are those of NVIDIA's PTX ISA reference, sm_80 and later.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Both kinds of code may be in one program.
#define VGPU_NAMESPACE tandem::gpu::cuda
#define VGPU_OPS kCudaOps
#define VGPU_KERNEL __global__
#define VGPU_DEVICE __device__ __forceinline__
#define VGPU_HOST_DEVICE __host__ __device__ inline
// At least three blocks to a multiprocessor: without a number ptxas aims at steps of occupancy and
// spills a few registers for them.
#define VGPU_LAUNCH_BOUNDS(threads) __launch_bounds__(threads, 3)
// Two: where shared memory has room for no more, and threads need the registers.
#define VGPU_LAUNCH_BOUNDS_2(threads) __launch_bounds__(threads, 2)
#define VGPU_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define VGPU_DYNAMIC_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char vgpu_dynamic_shared_bytes[]; \
  T* name = reinterpret_cast<T*>(vgpu_dynamic_shared_bytes)
#define VGPU_LAUNCH(kernel, grid, block, dynamic_shared_bytes, stream, ...)               \
  kernel<<<(grid), (block), (dynamic_shared_bytes), static_cast<cudaStream_t>(stream)>>>( \
      __VA_ARGS__)

namespace VGPU_NAMESPACE {

VGPU_DEVICE uint16_t load_u16(const void* p) { return *static_cast<const uint16_t*>(p); }
VGPU_DEVICE uint32_t load_u32(const void* p) { return *static_cast<const uint32_t*>(p); }
VGPU_DEVICE float load_f32(const void* p) { return *static_cast<const float*>(p); }

VGPU_DEVICE void store_u16(void* p, uint16_t v) { *static_cast<uint16_t*>(p) = v; }
VGPU_DEVICE void store_u32(void* p, uint32_t v) { *static_cast<uint32_t*>(p) = v; }

VGPU_DEVICE float bits_to_f32(uint32_t bits) { return __uint_as_float(bits); }
VGPU_DEVICE uint32_t f32_to_bits(float f) { return __float_as_uint(f); }

VGPU_DEVICE float f16_to_f32(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
VGPU_DEVICE uint16_t f32_to_f16(float f) {  // to nearest, ties to even
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}

// Copies 16 bytes to shared memory while the thread goes on: the first `bytes` from global memory,
// zeros behind them. Both 16-byte aligned. Copies since the last commit_copies() are a group; after
// wait_copies<N>() all groups of this thread but the last N have landed, for this thread; others
// see them behind a barrier.
VGPU_DEVICE void copy_async16(void* to, const void* from, unsigned bytes) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes)
               : "memory");
}
VGPU_DEVICE void copy_async4(void* to, const void* from) {  // likewise, 4 bytes
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(from) : "memory");
}
VGPU_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
VGPU_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// What the host wrote last; what it wrote before that is seen behind this.
VGPU_DEVICE uint32_t load_of_host(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
VGPU_DEVICE void nap() { __nanosleep(200); }

// c + the four products of signed bytes.
VGPU_DEVICE int dp4a(uint32_t a, uint32_t b, int c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}
// c + the products of two signed halves of a with two unsigned bytes of b: the low or the high
// ones.
VGPU_DEVICE int dp2a_lo(uint32_t a, uint32_t b, int c) {
  asm("dp2a.lo.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
  return c;
}
VGPU_DEVICE int dp2a_hi(uint32_t a, uint32_t b, int c) {
  asm("dp2a.hi.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
  return c;
}

}  // namespace VGPU_NAMESPACE
