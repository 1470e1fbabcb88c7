// Products of small matrices by a warp (tensor cores), C += A B, with the fragments of NVIDIA's PTX
// ISA reference ("Matrix Fragments for mma.m16n8k16" and "k32"). Lane l = 4 g + t of a warp holds
//   A: rows g and g + 8, dwords t and t + 4 of a row: {g|t, g+8|t, g|t+4, g+8|t+4};
//      of k = 16 bytes a row, dword t only: {g|t, g+8|t}
//   B: column g, dwords t and t + 4 (or t): {t|g, t+4|g}
//   C: rows g and g + 8, columns 2t and 2t + 1: {g|2t, g|2t+1, g+8|2t, g+8|2t+1}
// where a dword is four int8 or two bf16 or f16 of neighbouring k. A packed group of weights
// (packed.h) is such an A without further ado: row r of line i of a block is dword i of row r.
#pragma once

#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

struct FragmentA {
  uint32_t r[4];
};
struct FragmentB {
  uint32_t r[2];
};

#if defined(__CUDACC__)

VGPU_DEVICE void mma_s8_k32(int (&c)[4], const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}
VGPU_DEVICE void mma_s8_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}
VGPU_DEVICE void mma_bf16_k16(float (&c)[4], const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}
VGPU_DEVICE void mma_f16_k16(float (&c)[4], const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

#else

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

// What the lanes hold, put together as matrices and multiplied. kDwords: of a row of A.
template <int kDwords, typename C, typename Element>
struct WarpProduct {
  struct Lane {
    C* c;
    FragmentA a;
    FragmentB b;
  };
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Element));
  static constexpr int kDepth = kDwords * kPerDword;

  static void of_lanes(void** arguments, uint32_t /*mask*/) {
    Element a[16][kDepth];
    Element b[8][kDepth];
    for (int l = 0; l < kWarpSize; ++l) {
      const Lane& lane = *static_cast<Lane*>(arguments[l]);
      for (int half = 0; half < kDwords / 4; ++half) {
        const int at = (l % 4 + 4 * half) * kPerDword;
        std::memcpy(&a[l / 4][at], &lane.a.r[2 * half], 4);
        std::memcpy(&a[l / 4 + 8][at], &lane.a.r[2 * half + 1], 4);
        std::memcpy(&b[l / 4][at], &lane.b.r[half], 4);
      }
    }
    for (int l = 0; l < kWarpSize; ++l) {
      C* c = static_cast<Lane*>(arguments[l])->c;
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8;
        const int column = l % 4 * 2 + i % 2;
        for (int k = 0; k < kDepth; ++k) c[i] += value(a[row][k]) * value(b[column][k]);
      }
    }
  }
  static int value(int8_t v) { return v; }
  static float value(Bf16 v) { return bits_to_f32(uint32_t{v.bits} << 16); }
  static float value(F16 v) { return f16_to_f32(v.bits); }
};

template <int kDwords, typename Element, typename C>
inline void warp_product(C (&c)[4], const FragmentA& a, const FragmentB& b, Place place) {
  using Product = WarpProduct<kDwords, C, Element>;
  typename Product::Lane lane{c, a, b};
  vgpu::runner->with_lanes(kAllLanes, &Product::of_lanes, &lane, place);
}
inline void mma_s8_k32(int (&c)[4], const FragmentA& a, const FragmentB& b,
                       const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  warp_product<8, int8_t>(c, a, b, {file, line});
}
inline void mma_s8_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b,
                       const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  warp_product<4, int8_t>(c, {{a0, a1, 0, 0}}, {{b, 0}}, {file, line});
}
inline void mma_bf16_k16(float (&c)[4], const FragmentA& a, const FragmentB& b,
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  warp_product<8, Bf16>(c, a, b, {file, line});
}
inline void mma_f16_k16(float (&c)[4], const FragmentA& a, const FragmentB& b,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  warp_product<8, F16>(c, a, b, {file, line});
}

#endif

}  // namespace VGPU_NAMESPACE
