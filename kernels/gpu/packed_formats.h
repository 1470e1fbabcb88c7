// Quantised weights in packed groups (kernels/packed.h) as fragments of tensor cores: a block of 16
// rows by kCols columns, times some tokens. The formulas are those of kernels/simd_scalar.cc.
//
// Format<type>::add(block, x, cols, col, acc): acc[j] += rows g and g + 8 of the block by tokens 2t
// and 2t + 1 of tile j (fragment C of mma.h), for lane 4 g + t. x: from column `col` on of packed
// rows of `cols`; own(j) is that of a lane's token of tile j, pair(j, i) those of its sums.
#pragma once

#include "kernels/gpu/mma.h"
#include "kernels/gpu/packed_x.h"

namespace VGPU_NAMESPACE {

inline constexpr int kLineBytes = 64;  // a dword of each of 16 rows

template <DType kType>
struct Format;

// Dwords `line` and `line` + 4 of rows g and g + 8, which is a fragment A.
struct RawLines {
  FragmentA a;
  VGPU_DEVICE RawLines(const uint8_t* lines, int line) {
    const uint8_t* at = lines + line * kLineBytes;
    a.r[0] = load_u32(at);
    a.r[1] = load_u32(at + 32);
    a.r[2] = load_u32(at + 4 * kLineBytes);
    a.r[3] = load_u32(at + 4 * kLineBytes + 32);
  }
  // f(dword) of each.
  template <typename F>
  VGPU_DEVICE FragmentA map(const F& f) const {
    return {{f(a.r[0]), f(a.r[1]), f(a.r[2]), f(a.r[3])}};
  }
  template <typename F>
  VGPU_DEVICE FragmentA with(const RawLines& other, const F& f) const {
    return {{f(a.r[0], other.a.r[0]), f(a.r[1], other.a.r[1]), f(a.r[2], other.a.r[2]),
             f(a.r[3], other.a.r[3])}};
  }
};

// Which rows and dwords a lane has.
struct Lane {
  int g;
  int t;
  VGPU_DEVICE Lane()
      : g(static_cast<int>(threadIdx.x) % kWarpSize / 4), t(static_cast<int>(threadIdx.x) % 4) {}
};

// 32 int8 of a lane's token, from column `col` on.
template <typename X>
VGPU_DEVICE FragmentB x_fragment(const X& x, int tile, int col, int t) {
  const uint8_t* at = x.own(tile) + col + 4 * t;
  return {{load_u32(at), load_u32(at + 16)}};
}

// Bytes of unsigned weights less `kOffset`, a power of two above all differences: as int8.
template <int kOffset>
VGPU_DEVICE uint32_t less_offset(uint32_t bytes) {
  return (bytes + (0x80U - kOffset) * 0x01010101U) ^ 0x80808080U;
}

// The formats of 32 columns: 16 f16 scales, then lines. Weights::fragment(lines, t) has all eight
// dwords of a row.
template <typename Weights>
struct Format32 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * Weights::kRowBytes;

  template <typename X>
  VGPU_DEVICE static void add(const uint8_t* block, const X& x, int cols, int col,
                              float (&acc)[X::kTiles][4]) {
    constexpr int kTiles = X::kTiles;
    const Lane lane;
    const float d[2] = {f16_to_f32(load_u16(block + 2 * lane.g)),
                        f16_to_f32(load_u16(block + 2 * (lane.g + 8)))};
    const FragmentA a = Weights::fragment(block + 32 + 4 * lane.g, lane.t);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      int sum[4] = {};
      mma_s8_k32(sum, a, x_fragment(x, j, col, lane.t));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x_d = load_f32(x.pair(j, i % 2) + cols + col / 32 * 4);
        acc[j][i] = fmaf(static_cast<float>(sum[i]), d[i / 2] * x_d, acc[j][i]);
      }
    }
  }
};

struct WeightsQ80 {
  static constexpr int kRowBytes = 34;
  VGPU_DEVICE static FragmentA fragment(const uint8_t* lines, int t) {
    return RawLines(lines, t).a;
  }
};

// Four lines: their low halves are columns 0 … 15, their high ones 16 … 31.
VGPU_DEVICE FragmentA nibbles_of_32(const uint8_t* lines, int t) {
  const uint8_t* at = lines + t * kLineBytes;
  const uint32_t row = load_u32(at);
  const uint32_t row8 = load_u32(at + 32);
  constexpr uint32_t kLow = 0x0F0F0F0F;
  return {{row & kLow, row8 & kLow, row >> 4 & kLow, row8 >> 4 & kLow}};
}

struct WeightsQ40 {
  static constexpr int kRowBytes = 18;
  VGPU_DEVICE static FragmentA fragment(const uint8_t* lines, int t) {
    const FragmentA q = nibbles_of_32(lines, t);
    return {{less_offset<8>(q.r[0]), less_offset<8>(q.r[1]), less_offset<8>(q.r[2]),
             less_offset<8>(q.r[3])}};
  }
};

// The first line has the fifth bits, bit i of weight i of the row.
struct WeightsQ50 {
  static constexpr int kRowBytes = 22;
  VGPU_DEVICE static FragmentA fragment(const uint8_t* lines, int t) {
    const FragmentA q = nibbles_of_32(lines + kLineBytes, t);
    const uint32_t bits = load_u32(lines);
    const uint32_t bits8 = load_u32(lines + 32);
    // Four bits as bit 4 of four bytes.
    const auto spread = [](uint32_t four) {
      return (four & 1U) << 4 | (four & 2U) << 11 | (four & 4U) << 18 | (four & 8U) << 25;
    };
    return {{less_offset<16>(q.r[0] | spread(bits >> 4 * t)),
             less_offset<16>(q.r[1] | spread(bits8 >> 4 * t)),
             less_offset<16>(q.r[2] | spread(bits >> (16 + 4 * t))),
             less_offset<16>(q.r[3] | spread(bits8 >> (16 + 4 * t)))}};
  }
};

template <>
struct Format<DType::kQ8_0> : Format32<WeightsQ80> {};
template <>
struct Format<DType::kQ4_0> : Format32<WeightsQ40> {};
template <>
struct Format<DType::kQ5_0> : Format32<WeightsQ50> {};

VGPU_DEVICE int byte_of(uint32_t dword, int i) { return static_cast<int>(dword >> 8 * i & 0xFFU); }
VGPU_DEVICE int signed_byte_of(uint32_t dword, int i) {
  return static_cast<int8_t>(dword >> 8 * i & 0xFFU);
}

// Activations of 256 columns: their scale, and sums of 32 columns, i-th pair of them; each four
// stand in the order 0 2 1 3 (packed.h).
VGPU_DEVICE float x_scale_256(const uint8_t* row, int cols, int col) {
  return load_f32(row + cols + col / 256 * 4);
}
VGPU_DEVICE uint32_t x_sums_32(const uint8_t* row, int cols, int col, int i) {
  return load_u32(row + cols + cols / 256 * 4 + col / 32 * 2 + 4 * i);
}

// The head of a row of a Q4_K or Q5_K block: d, dmin, and eight scales and minimums of six bits,
// packed as scale_min() of simd_scalar.cc says.
struct HeadK {
  float d;
  float dmin;
  uint32_t scales[2];  // four bytes each
  uint32_t mins[2];    // in the order 0 2 1 3, as sums of activations
  VGPU_DEVICE explicit HeadK(const uint8_t* row) {
    const uint32_t both = load_u32(row);
    const uint32_t w0 = load_u32(row + kLineBytes);
    const uint32_t w1 = load_u32(row + 2 * kLineBytes);
    const uint32_t w2 = load_u32(row + 3 * kLineBytes);
    d = f16_to_f32(static_cast<uint16_t>(both & 0xFFFFU));
    dmin = f16_to_f32(static_cast<uint16_t>(both >> 16));
    scales[0] = w0 & 0x3F3F3F3FU;
    scales[1] = (w2 & 0x0F0F0F0FU) | (w0 >> 2 & 0x30303030U);
    mins[0] = middle_swapped(w1 & 0x3F3F3F3FU);
    mins[1] = middle_swapped((w2 >> 4 & 0x0F0F0F0FU) | (w1 >> 2 & 0x30303030U));
  }
  VGPU_DEVICE static uint32_t middle_swapped(uint32_t m) {
    return (m & 0xFF0000FFU) | (m >> 8 & 0x0000FF00U) | (m << 8 & 0x00FF0000U);
  }
};

// Q4_K and Q5_K: eight sub-blocks of 32 columns; Weights::fragment(block, lane, s) has their
// unsigned weights.
template <typename Weights>
struct FormatK {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * Weights::kRowBytes;

  template <typename X>
  VGPU_DEVICE static void add(const uint8_t* block, const X& x, int cols, int col,
                              float (&acc)[X::kTiles][4]) {
    constexpr int kTiles = X::kTiles;
    const Lane lane;
    const uint8_t* row = block + 4 * lane.g;
    const HeadK head[2] = {HeadK(row), HeadK(row + 32)};
    Weights weights(row, lane.t);
    int sum[kTiles][4] = {};
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      const FragmentA a = weights.fragment(s);
      const int scale[2] = {byte_of(head[0].scales[s / 4], s % 4),
                            byte_of(head[1].scales[s / 4], s % 4)};
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        int part[4] = {};
        mma_s8_k32(part, a, x_fragment(x, j, col + 32 * s, lane.t));
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[j][i] += part[i] * scale[i / 2];
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      int least[4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint8_t* row_x = x.pair(j, i % 2);
          const uint32_t mins = head[i / 2].mins[half];
          least[i] = dp2a_lo(x_sums_32(row_x, cols, col, 2 * half), mins, least[i]);
          least[i] = dp2a_hi(x_sums_32(row_x, cols, col, 2 * half + 1), mins, least[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const HeadK& h = head[i / 2];
        const float whole =
            fmaf(static_cast<float>(-least[i]), h.dmin, static_cast<float>(sum[j][i]) * h.d);
        acc[j][i] = fmaf(whole, x_scale_256(x.pair(j, i % 2), cols, col), acc[j][i]);
      }
    }
  }
};

// Line k of a pair of sub-blocks has dword k of both, as low and high halves.
struct WeightsQ4K {
  static constexpr int kRowBytes = 144;
  const uint8_t* row;
  int t;
  VGPU_DEVICE WeightsQ4K(const uint8_t* block_row, int dword) : row(block_row), t(dword) {}
  VGPU_DEVICE FragmentA fragment(int s) const {
    return RawLines(row, 4 + s / 2 * 8 + t).map([&](uint32_t q) {
      return q >> s % 2 * 4 & 0x0F0F0F0FU;
    });
  }
};

// The same behind eight lines of fifth bits, bit s of each byte for sub-block s.
struct WeightsQ5K {
  static constexpr int kRowBytes = 176;
  const uint8_t* row;
  int t;
  RawLines bits;
  VGPU_DEVICE WeightsQ5K(const uint8_t* block_row, int dword)
      : row(block_row), t(dword), bits(block_row, 4 + dword) {}
  VGPU_DEVICE FragmentA fragment(int s) const {
    return RawLines(row, 12 + s / 2 * 8 + t).with(bits, [&](uint32_t q, uint32_t fifth) {
      return (q >> s % 2 * 4 & 0x0F0F0F0FU) | (fifth >> s & 0x01010101U) << 4;
    });
  }
};

template <>
struct Format<DType::kQ4_K> : FormatK<WeightsQ4K> {};
template <>
struct Format<DType::kQ5_K> : FormatK<WeightsQ5K> {};

// 32 lines of low halves, 16 of two high bits, four of signed scales of 16 columns, 16 f16 scales.
template <>
struct Format<DType::kQ6_K> {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 210;

  template <typename X>
  VGPU_DEVICE static void add(const uint8_t* block, const X& x, int cols, int col,
                              float (&acc)[X::kTiles][4]) {
    constexpr int kTiles = X::kTiles;
    const Lane lane;
    const uint8_t* row = block + 4 * lane.g;
    const uint8_t* d_at = block + 52 * kLineBytes + 2 * lane.g;
    const float d[2] = {f16_to_f32(load_u16(d_at)), f16_to_f32(load_u16(d_at + 16))};
    int sum[kTiles][4] = {};
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      const int half = s / 4;
      const int j4 = s % 4;
      const FragmentA a =
          RawLines(row, half * 16 + j4 % 2 * 8 + lane.t)
              .with(RawLines(row, 32 + half * 8 + lane.t), [&](uint32_t low, uint32_t high) {
                return less_offset<32>((low >> j4 / 2 * 4 & 0x0F0F0F0FU) |
                                       (high >> 2 * j4 & 0x03030303U) << 4);
              });
      const uint8_t* scales = row + (48 + s / 2) * kLineBytes;
      const uint32_t four[2] = {load_u32(scales), load_u32(scales + 32)};
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const FragmentB b = x_fragment(x, j, col + 32 * s, lane.t);
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          int part[4] = {};
          mma_s8_k16(part, a.r[2 * u], a.r[2 * u + 1], b.r[u]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[j][i] += part[i] * signed_byte_of(four[i / 2], s % 2 * 2 + u);
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[j][i] = fmaf(static_cast<float>(sum[j][i]) * d[i / 2],
                         x_scale_256(x.pair(j, i % 2), cols, col), acc[j][i]);
      }
    }
  }
};

}  // namespace VGPU_NAMESPACE
