// What attention multiplies with: a group of 16 rows of a matrix of keys or values, by eight
// columns that lie in shared memory.
//
// f16 goes through tensor cores. The columns are f32 and are taken as the sum of two f16, so that
// results have the precision of f32, as on the CPU; values beyond f16's range (65504) are not
// expected of queries, and weights are at most 1. f32 is multiplied in f32.
//
// Keys in kQ8_0 are a matrix of Q8_0 like any other: queries are rounded to int8. Values in kQ8_0
// are exact as bf16. What they are multiplied with are the weights of the keys times the scales of
// the values, which have no range that f16 would hold, and are the sum of three bf16.
#pragma once

#include <type_traits>

#include "kernels/gpu/mma.h"
#include "kernels/gpu/pack_block.h"
#include "kernels/gpu/packed_formats.h"
#include "kernels/kv_cache.h"

namespace VGPU_NAMESPACE {

inline constexpr int kAttentionColumns = 8;

// Two f32 as two pairs of f16 whose sums they are.
struct SplitPair {
  uint32_t high;
  uint32_t low;
  VGPU_DEVICE SplitPair(float first, float second) {
    const uint16_t a = f32_to_f16(first);
    const uint16_t b = f32_to_f16(second);
    high = a | static_cast<uint32_t>(b) << 16;
    low = f32_to_f16(first - f16_to_f32(a)) |
          static_cast<uint32_t>(f32_to_f16(second - f16_to_f32(b))) << 16;
  }
};

template <KvType kType>
struct GroupOf;

// Columns [0, n) of the matrix count: what stands behind them may be NaN.
template <>
struct GroupOf<KvType::kF16> {
  VGPU_DEVICE static int bytes(int cols) { return (cols + 1) / 2 * kLineBytes; }

  // acc += rows g and g + 8 by columns 2t and 2t + 1. x: [8, stride] f32, shared; what stands in a
  // row behind n, up to a multiple of 16, must be finite.
  VGPU_DEVICE static void product(const uint8_t* group, const float* x, int stride, int n,
                                  float (&acc)[4]) {
    const Lane lane;
    const uint8_t* rows = group + 4 * lane.g;
    const auto dword = [&](int line, int offset) {
      if (2 * line >= n) return 0U;
      const uint32_t pair = load_u32(rows + line * kLineBytes + offset);
      return 2 * line + 1 < n ? pair : pair & 0xFFFFU;
    };
    const float* column = x + lane.g * stride;
    for (int first = 0; first < n; first += 16) {
      const int near = first / 2 + lane.t;
      const int far = near + 4;
      const FragmentA a{{dword(near, 0), dword(near, 32), dword(far, 0), dword(far, 32)}};
      const SplitPair x_near(column[2 * near], column[2 * near + 1]);
      const SplitPair x_far(column[2 * far], column[2 * far + 1]);
      mma_f16_k16(acc, a, {{x_near.low, x_far.low}});
      mma_f16_k16(acc, a, {{x_near.high, x_far.high}});
    }
  }
};

template <>
struct GroupOf<KvType::kF32> {
  VGPU_DEVICE static int bytes(int cols) { return cols * kLineBytes; }

  VGPU_DEVICE static void product(const uint8_t* group, const float* x, int stride, int n,
                                  float (&acc)[4]) {
    const Lane lane;
    const uint8_t* rows = group + 4 * lane.g;
    const float* first = x + 2 * lane.t * stride;
    const float* second = first + stride;
    for (int k = 0; k < n; ++k) {
      const float near = load_f32(rows + k * kLineBytes);
      const float far = load_f32(rows + k * kLineBytes + 32);
      acc[0] = fmaf(near, first[k], acc[0]);
      acc[1] = fmaf(near, second[k], acc[1]);
      acc[2] = fmaf(far, first[k], acc[2]);
      acc[3] = fmaf(far, second[k], acc[3]);
    }
  }
};

// Bytes of a query in shared memory. Rows begin four (or an odd multiple of that) banks after
// another, as a warp reads four dwords of each of eight rows at once.
constexpr int query_bytes(KvType type_k, int head_dim) {
  if (type_k == KvType::kQ8_0) return (head_dim + head_dim / 32 * 8 + 31) / 32 * 32 + 16;
  return ((head_dim + 15) / 16 * 16 + 4) * 4;
}

// Keys, and queries as they want them: kAttentionColumns rows of row_bytes, shared.
template <KvType kType>
struct Keys {
  VGPU_DEVICE static int group_bytes(int head_dim) { return GroupOf<kType>::bytes(head_dim); }

  // By a block of kWarps warps. query(c): column c, in device memory.
  template <int kWarps, typename F>
  VGPU_DEVICE static void put_queries(const F& query, int head_dim, uint8_t* rows, int row_bytes) {
    const int stride = row_bytes / 4;
    auto* to = reinterpret_cast<float*>(rows);
    for (int i = static_cast<int>(threadIdx.x); i < kAttentionColumns * stride;
         i += kWarps * kWarpSize) {
      const int at = i % stride;
      to[i] = at < head_dim ? query(i / stride)[at] : 0.0F;
    }
  }

  // score += rows g and g + 8 of a group by columns 2t and 2t + 1.
  VGPU_DEVICE static void product(const uint8_t* group, const uint8_t* rows, int row_bytes,
                                  int head_dim, float (&score)[4]) {
    GroupOf<kType>::product(group, reinterpret_cast<const float*>(rows), row_bytes / 4, head_dim,
                            score);
  }
};

template <>
struct Keys<KvType::kQ8_0> {
  using Blocks = Format<DType::kQ8_0>;
  VGPU_DEVICE static int group_bytes(int head_dim) {
    return head_dim / Blocks::kCols * Blocks::kBytes;
  }

  template <int kWarps, typename F>
  VGPU_DEVICE static void put_queries(const F& query, int head_dim, uint8_t* rows, int row_bytes) {
    const int blocks = head_dim / Blocks::kCols;
    for (int i = static_cast<int>(threadIdx.x) / kWarpSize; i < kAttentionColumns * blocks;
         i += kWarps) {
      const int c = i / blocks;
      pack_block_q8<1>(query(c), head_dim, i % blocks, rows + c * row_bytes);
    }
  }

  VGPU_DEVICE static void product(const uint8_t* group, const uint8_t* rows, int row_bytes,
                                  int head_dim, float (&score)[4]) {
    const TokenTiles<1> x({rows, row_bytes, head_dim}, {nullptr, kAttentionColumns}, 0);
    float sum[1][4] = {};
    for (int col = 0; col < head_dim; col += Blocks::kCols, group += Blocks::kBytes) {
      Blocks::add(group, x, head_dim, col, sum);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += sum[0][i];
  }
};

// Values of a head's tile, v_head_dim rows.
template <KvType kType>
struct Values {
  VGPU_DEVICE static int tile_bytes(int v_head_dim) {
    return (v_head_dim + 15) / 16 * GroupOf<kType>::bytes(kKvTile);
  }
  // acc += rows g and g + 8 of a group by columns 2t and 2t + 1. weights: [8, stride] f32, shared;
  // positions from n on do not count, and their weights are finite.
  VGPU_DEVICE static void product(const uint8_t* tile, int group, const float* weights, int stride,
                                  int n, float (&acc)[4]) {
    GroupOf<kType>::product(tile + group * GroupOf<kType>::bytes(kKvTile), weights, stride, n, acc);
  }
};

// Two f32 as three pairs of bf16 whose sums they are: their bits, eight of 24 in each.
struct Bf16Pairs {
  uint32_t high;
  uint32_t middle;
  uint32_t low;
  VGPU_DEVICE Bf16Pairs(float first, float second) {
    high = take(&first, &second);
    middle = take(&first, &second);
    low = take(&first, &second);
  }

 private:
  VGPU_DEVICE static uint32_t take(float* first, float* second) {
    const uint32_t a = f32_to_bits(*first) & 0xFFFF0000U;
    const uint32_t b = f32_to_bits(*second) & 0xFFFF0000U;
    *first -= bits_to_f32(a);
    *second -= bits_to_f32(b);
    return a >> 16 | b;
  }
};

template <>
struct Values<KvType::kQ8_0> {
  VGPU_DEVICE static int tile_bytes(int v_head_dim) {
    return v_head_dim / static_cast<int>(Q8Values::kRows) * static_cast<int>(Q8Values::kBlockBytes);
  }

  // Fragments have positions in an order of their own: where those of k would be 2t, 2t + 1, 2t + 8
  // and 2t + 9, they are 4t … 4t + 3, a dword of int8.
  VGPU_DEVICE static void product(const uint8_t* tile, int group, const float* weights, int stride,
                                  int n, float (&acc)[4]) {
    const Lane lane;
    const uint8_t* scales = tile + group / 2 * static_cast<int>(Q8Values::kBlockBytes);
    const uint8_t* rows = scales + static_cast<int>(Q8Values::kScaleBytes) +
                          group % 2 * static_cast<int>(Q8Values::kGroupBytes) + 4 * lane.g;
#pragma unroll 1  // unrolled, it needs more registers than there are
    for (int first = 4 * lane.t; first - 4 * lane.t < n; first += 16) {
      const auto scaled = [&](int i) {
        const int position = first + i;
        if (position >= n) return 0.0F;
        return weights[lane.g * stride + position] * f16_to_f32(load_u16(scales + 2 * position));
      };
      const uint32_t near = load_u32(rows + first / 4 * kLineBytes);
      const uint32_t far = load_u32(rows + first / 4 * kLineBytes + 32);
      const FragmentA a{{as_bf16(near), as_bf16(far), as_bf16(near >> 16), as_bf16(far >> 16)}};
      const Bf16Pairs x(scaled(0), scaled(1));
      const Bf16Pairs y(scaled(2), scaled(3));
      mma_bf16_k16(acc, a, {{x.low, y.low}});
      mma_bf16_k16(acc, a, {{x.middle, y.middle}});
      mma_bf16_k16(acc, a, {{x.high, y.high}});
    }
  }

 private:
  // The lower two int8.
  VGPU_DEVICE static uint32_t as_bf16(uint32_t pair) {
    const auto first = static_cast<float>(static_cast<int8_t>(pair & 0xFFU));
    const auto second = static_cast<float>(static_cast<int8_t>(pair >> 8 & 0xFFU));
    return f32_to_bits(first) >> 16 | (f32_to_bits(second) & 0xFFFF0000U);
  }
};

template <KvType kType>
using KvConstant = std::integral_constant<KvType, kType>;

// f(type) with the type as a constant.
template <typename F>
void with_type(KvType type, const F& f) {
  switch (type) {
    case KvType::kF16:
      return f(KvConstant<KvType::kF16>{});
    case KvType::kF32:
      return f(KvConstant<KvType::kF32>{});
    case KvType::kQ8_0:
      return f(KvConstant<KvType::kQ8_0>{});
  }
}

// f(type_k, type_v) as constants.
template <typename F>
void with_types(const KvCache& cache, const F& f) {
  with_type(cache.type_k,
            [&](auto type_k) { with_type(cache.type_v, [&](auto type_v) { f(type_k, type_v); }); });
}

}  // namespace VGPU_NAMESPACE
