// What attention multiplies with: a group of 16 rows of a packed matrix of keys or values, f16 or
// f32, by eight columns that lie in shared memory as f32 rows.
//
// f16 goes through tensor cores. The columns are f32 and are taken as the sum of two f16, so that
// results have the precision of f32, as on the CPU; values beyond f16's range (65504) are not
// expected of queries, and weights are at most 1. f32 is multiplied in f32.
#pragma once

#include <type_traits>

#include "kernels/gpu/mma.h"
#include "kernels/gpu/packed_formats.h"

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

template <bool kF16>
struct GroupOf;

// Columns [0, n) of the matrix count: what stands behind them may be NaN.
template <>
struct GroupOf<true> {
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
struct GroupOf<false> {
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

// f(f16_k, f16_v) as constants.
template <typename F>
void with_types(const KvCache& cache, const F& f) {
  if (cache.f16_k && cache.f16_v) return f(std::true_type{}, std::true_type{});
  if (cache.f16_k) return f(std::true_type{}, std::false_type{});
  if (cache.f16_v) return f(std::false_type{}, std::true_type{});
  return f(std::false_type{}, std::false_type{});
}

}  // namespace VGPU_NAMESPACE
