// F32, F16 and BF16 weights in packed groups, as packed_formats.h has the quantised ones: a block
// is some lines, of which the last may be missing.
//
// Format<type>::add(block, x, cols, col, acc), where `cols` is also where the row ends: lines
// behind it are neither there nor read.
#pragma once

#include "kernels/gpu/packed_formats.h"

namespace VGPU_NAMESPACE {

// Tensor cores, as they add: f32 sums of exact products.
template <>
struct Format<DType::kBF16> {
  static constexpr int kCols = 64;
  static constexpr int kBytes = 32 * kLineBytes;

  template <typename X>
  VGPU_DEVICE static void add(const uint8_t* block, const X& x, int cols, int col,
                              float (&acc)[X::kTiles][4]) {
    const Lane lane;
    const int dwords = (cols - col + 1) / 2;  // left of a row
    const auto dword = [&](const uint8_t* lines, int stride, int i) {
      return i < dwords ? load_u32(lines + i * stride) : 0U;
    };
    for (int first = 0; first < kCols / 2 && first < dwords; first += 8) {
      const uint8_t* row = block + 4 * lane.g;
      const int near = first + lane.t;
      const int far = near + 4;
      const FragmentA a{{dword(row, kLineBytes, near), dword(row + 32, kLineBytes, near),
                         dword(row, kLineBytes, far), dword(row + 32, kLineBytes, far)}};
#pragma unroll
      for (int j = 0; j < X::kTiles; ++j) {
        const uint8_t* at = x.own(j) + 2 * col;
        mma_bf16_k16(acc[j], a, {{dword(at, 4, near), dword(at, 4, far)}});
      }
    }
  }
};

// Multiplied in f32: lane 4 g + t takes every fourth line of rows g and g + 8 by all eight tokens
// of a tile, and lanes add up at the end. Weights::kPerDword columns a line.
template <typename Weights>
struct FormatFloat {
  static constexpr int kCols = 32 * Weights::kPerDword;
  static constexpr int kBytes = 32 * kLineBytes;

  template <int kTiles>
  VGPU_DEVICE static void add(const uint8_t* block, const TokenTiles<kTiles>& x, int cols, int col,
                              float (&acc)[kTiles][4]) {
    const Lane lane;
    const int left = cols - col;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const uint8_t* token[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        token[i] = x.base + __shfl_sync(kAllLanes, x.own_offset[j], 4 * i) + 4 * col;
      }
      float sum[2][8] = {};
      for (int line = lane.t; line < 32; line += 4) {
        const uint8_t* row = block + line * kLineBytes + 4 * lane.g;
#pragma unroll
        for (int k = 0; k < Weights::kPerDword; ++k) {
          const int at = line * Weights::kPerDword + k;
          if (at >= left) continue;
          const float w[2] = {Weights::value(load_u32(row), k),
                              Weights::value(load_u32(row + 32), k)};
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float value = load_f32(token[i] + 4 * at);
            sum[0][i] = fmaf(w[0], value, sum[0][i]);
            sum[1][i] = fmaf(w[1], value, sum[1][i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float all = sum[r][i];
          all += __shfl_xor_sync(kAllLanes, all, 1);
          all += __shfl_xor_sync(kAllLanes, all, 2);
          if (i / 2 == lane.t) acc[j][2 * r + i % 2] += all;
        }
      }
    }
  }
};

struct WeightsF32 {
  static constexpr int kPerDword = 1;
  VGPU_DEVICE static float value(uint32_t dword, int /*k*/) { return bits_to_f32(dword); }
};
struct WeightsF16 {
  static constexpr int kPerDword = 2;
  VGPU_DEVICE static float value(uint32_t dword, int k) {
    return f16_to_f32(static_cast<uint16_t>(dword >> 16 * k & 0xFFFFU));
  }
};

template <>
struct Format<DType::kF32> : FormatFloat<WeightsF32> {};
template <>
struct Format<DType::kF16> : FormatFloat<WeightsF16> {};

}  // namespace VGPU_NAMESPACE
