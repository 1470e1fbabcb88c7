// vgpu.h for g++ and clang: CUDA's names on top of the emulation. What a kernel asks that CUDA
// leaves undefined ends the launch with KernelFault.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>

#include "kernels/gpu/emulation/block_runner.h"
#include "kernels/quant.h"

#define VGPU_NAMESPACE tandem::gpu::emulated
#define VGPU_OPS kEmulatedOps
#define VGPU_KERNEL inline
#define VGPU_DEVICE inline
#define VGPU_HOST_DEVICE inline
#define VGPU_LAUNCH_BOUNDS(threads)
#define VGPU_LAUNCH_BOUNDS_2(threads)
#define VGPU_SHARED(T, name, n)                                         \
  static const char name##_key = 0;                                     \
  T* const name = static_cast<T*>(::tandem::vgpu::runner->shared_array( \
      &name##_key, sizeof(T) * (n), alignof(T) > 16 ? alignof(T) : 16))
#define VGPU_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::tandem::vgpu::runner->dynamic_shared())
#define VGPU_LAUNCH(kernel, grid, block, dynamic_shared_bytes, stream, ...)    \
  do {                                                                         \
    auto* const vgpu_stream = static_cast<::tandem::vgpu::Emulation*>(stream); \
    vgpu_stream->launch(#kernel, (grid), (block), (dynamic_shared_bytes),      \
                        [=] { kernel(__VA_ARGS__); });                         \
    vgpu_stream->log_arguments(&kernel, __VA_ARGS__);                          \
  } while (false)

#define threadIdx (::tandem::vgpu::self->thread)
#define blockIdx (::tandem::vgpu::self->block)
#define blockDim (::tandem::vgpu::self->block_size)
#define gridDim (::tandem::vgpu::self->grid_size)
using dim3 = ::tandem::vgpu::Size3;

namespace VGPU_NAMESPACE {

using vgpu::Place;

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  vgpu::runner->barrier({file, line});
}

// The value of another lane of the mask; width is always 32.
template <typename T>
inline T shuffle_from(uint32_t mask, T value, unsigned lane, Place place) {
  struct Argument {
    T value;
    unsigned from;
    T result;
  } mine{value, lane, value};
  vgpu::runner->with_lanes(
      mask,
      [](void** arguments, uint32_t lanes) {
        for (unsigned i = 0; i < vgpu::kWarp; ++i) {
          if ((lanes >> i & 1U) == 0) continue;
          auto* me = static_cast<Argument*>(arguments[i]);
          if ((lanes >> me->from & 1U) == 0) {
            vgpu::runner->fault("lane %u shuffles from lane %u, which is not in mask %08x", i,
                                me->from, lanes);
          }
          me->result = static_cast<Argument*>(arguments[me->from])->value;
        }
      },
      &mine, place);
  return mine.result;
}
template <typename T>
inline T __shfl_sync(uint32_t mask, T value, int lane, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  return shuffle_from(mask, value, static_cast<unsigned>(lane) % vgpu::kWarp, {file, line});
}
template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, int bits, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  return shuffle_from(mask, value, (vgpu::self->lane ^ static_cast<unsigned>(bits)) % vgpu::kWarp,
                      {file, line});
}

// Whether the predicate holds for any lane of the mask.
inline int __any_sync(uint32_t mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  int any = predicate;
  vgpu::runner->with_lanes(mask,
                           [](void** arguments, uint32_t lanes) {
                             int all = 0;
                             for (unsigned i = 0; i < vgpu::kWarp; ++i) {
                               if ((lanes >> i & 1U) != 0) all |= *static_cast<int*>(arguments[i]);
                             }
                             for (unsigned i = 0; i < vgpu::kWarp; ++i) {
                               if ((lanes >> i & 1U) != 0) *static_cast<int*>(arguments[i]) = all;
                             }
                           },
                           &any, {file, line});
  return any;
}

template <typename T>
inline T load(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) {
    vgpu::runner->fault("a load of %zu bytes is misaligned: %p", sizeof(T), p);
  }
  // Not memcpy: sanitizers are to see a load of this thread.
  struct [[gnu::may_alias]] Word {
    T value;
  };
  return static_cast<const Word*>(p)->value;
}
inline uint16_t load_u16(const void* p) { return load<uint16_t>(p); }
inline uint32_t load_u32(const void* p) { return load<uint32_t>(p); }
inline float load_f32(const void* p) { return load<float>(p); }

template <typename T>
inline void store(void* p, T value) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) {
    vgpu::runner->fault("a store of %zu bytes is misaligned: %p", sizeof(T), p);
  }
  struct [[gnu::may_alias]] Word {
    T value;
  };
  static_cast<Word*>(p)->value = value;
}
inline void store_u16(void* p, uint16_t v) { store(p, v); }
inline void store_u32(void* p, uint32_t v) { store(p, v); }

inline float bits_to_f32(uint32_t bits) {
  float f = 0;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}
inline uint32_t f32_to_bits(float f) {
  uint32_t bits = 0;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}
inline float f16_to_f32(uint16_t h) { return tandem::f16_to_f32(h); }
inline uint16_t f32_to_f16(float f) { return tandem::f32_to_f16(f); }

inline void copy_async16(void* to, const void* from, unsigned bytes) {
  vgpu::runner->copy_async({to, from, 16, bytes});
}
inline void copy_async4(void* to, const void* from) { vgpu::runner->copy_async({to, from, 4, 4}); }
inline void commit_copies() { vgpu::runner->commit_copies(); }
template <int N>
inline void wait_copies() {
  vgpu::runner->wait_copies(N);
}

inline uint32_t load_of_host(const uint32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void nap() { std::this_thread::yield(); }

inline int dp4a(uint32_t a, uint32_t b, int c) {
  for (int i = 0; i < 32; i += 8) {
    c += static_cast<int8_t>(a >> i & 0xFFU) * static_cast<int8_t>(b >> i & 0xFFU);
  }
  return c;
}

inline int dp2a_lo(uint32_t a, uint32_t b, int c) {
  return c + static_cast<int16_t>(a & 0xFFFFU) * static_cast<int>(b & 0xFFU) +
         static_cast<int16_t>(a >> 16) * static_cast<int>(b >> 8 & 0xFFU);
}
inline int dp2a_hi(uint32_t a, uint32_t b, int c) { return dp2a_lo(a, b >> 16, c); }

inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
using std::fmaxf;
using std::fminf;

}  // namespace VGPU_NAMESPACE
