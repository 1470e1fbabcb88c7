// F32, F16, BF16, Q8_0, Q4_0 and Q5_0 in packed groups (packed.h). Formats are structs over Lanes
// (simd_lanes.h): kCols columns in a block, kBytes of a group's block, and dot<G, T>(block, lane,
// x, acc): acc[g][t] += rows from `lane` on of the block of group g . x[t].
#pragma once

#include "kernels/simd_lanes.h"

namespace tandem {
namespace {

// The float formats have a line a block; kLines of them are done at a time.
template <class L, int kLines>
struct PackedF32 {
  static constexpr int kCols = kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kFloat;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
      block.fetch_ahead<G, L::kAhead, T == 1 || L::kAheadToL2>(k);
      typename L::Float w[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        w[g] = L::as_float(L::line(block.at + g * block.stride + k * kLineBytes + lane * 4));
      });
      const auto dot = [](auto sum, auto weights, auto column) __attribute__((always_inline)) {
        return L::fma(weights, L::as_float(column), sum);
      };
      add_line<L>(x, k * 4, w, dot, acc);
    });
  }
};

template <class L, int kLines>
struct PackedF16 {
  static constexpr int kCols = 2 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kFloat;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
      block.fetch_ahead<G, L::kAhead, L::kAheadToL2>(k);
      typename L::Float even[G];
      typename L::Float odd[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        const typename L::Int line =
            L::line(block.at + g * block.stride + k * kLineBytes + lane * 4);
        even[g] = L::half_of(line);
        odd[g] = L::half_of(L::shr(line, 16));
      });
      const auto dot = [](auto sum, auto weights, auto column) __attribute__((always_inline)) {
        return L::fma(weights, L::as_float(column), sum);
      };
      add_line<L>(x, k * 8, even, dot, acc);
      add_line<L>(x, k * 8 + 4, odd, dot, acc);
    });
  }
};

// The line of an odd column, behind which rows of f32 activations end.
template <class L>
struct OddF16 {
  static constexpr int kCols = 1;
  static constexpr int kBytes = 64;
  static constexpr XKind kX = XKind::kFloat;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      const typename L::Float w = L::half_of(L::line(block.at + g * block.stride + lane * 4));
      acc[g][t] = L::fma(w, L::bcast_float(x[t].q), acc[g][t]);
    });
  }
};

// int8 without scales times f32, for SimdOps::dot_int8().
template <class L, int kLines>
struct PackedInt8 {
  static constexpr int kCols = 4 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kFloat;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
      block.fetch_ahead<G, L::kAhead, L::kAheadToL2>(k);
      typename L::Int line[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        line[g] = L::line(block.at + g * block.stride + k * kLineBytes + lane * 4);
      });
      const auto dot = [](auto sum, auto weights, auto column) __attribute__((always_inline)) {
        return L::fma(weights, L::as_float(column), sum);
      };
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        typename L::Float w[G];
        unrolled<G>([&](auto g) __attribute__((always_inline)) {
          w[g] = L::to_float(L::sar(L::shl(line[g], 24 - 8 * i), 24));
        });
        add_line<L>(x, k * 16 + i * 4, w, dot, acc);
      });
    });
  }
};

template <class L, int kLines>
struct PackedBf16 {
  static constexpr int kCols = 2 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kBf16;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
      block.fetch_ahead<G, L::kAhead, T == 1 || L::kAheadToL2>(k);
      typename L::Int w[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        w[g] = L::line(block.at + g * block.stride + k * kLineBytes + lane * 4);
      });
      const auto dot = [](auto sum, auto weights, auto column) __attribute__((always_inline)) {
        return L::dot_bf16(sum, weights, column);
      };
      add_line<L>(x, k * 4, w, dot, acc);
    });
  }
};

// The formats of 32 columns: 16 f16 scales, then lines of which Weights::unpack makes eight lines
// of weights; kPlain: there are as many. Weights::start is what their dot product starts from,
// given minus the sum of x.
template <class L, class Weights>
struct Packed32 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * Weights::kRowBytes;
  static constexpr XKind kX = XKind::kQ8;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    constexpr bool kToL2 = (T == 1 && Weights::kPlain) || L::kAheadToL2;
    typename L::Int sum[G][T];
    unrolled<T>([&](auto t) __attribute__((always_inline)) {
      const typename L::Int start = Weights::start(L::bcast(x[t].sums));
      unrolled<G>([&](auto g) __attribute__((always_inline)) { sum[g][t] = start; });
    });
    const uint8_t* q = block.at + 32 + lane * 4;
    unrolled<8>([&](auto k) __attribute__((always_inline)) {
      block.fetch_part<G, kBytes, 1, L::kAhead, kToL2>(0, k);
      if (k == 7) block.fetch_part<G, kBytes, 1, L::kAhead, kToL2>(0, 8);
      typename L::Int w[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        w[g] = Weights::unpack(q + g * block.stride, k);
      });
      const auto dot = [](auto total, auto weights, auto column) __attribute__((always_inline)) {
        return Weights::dot(total, weights, column);
      };
      add_line<L>(x, k * 4, w, dot, sum);
    });
    typename L::Float d[G];
    unrolled<G>([&](auto g) __attribute__((always_inline)) {
      d[g] = L::halves(block.at + g * block.stride + lane * 2);
    });
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = L::fma(L::to_float(sum[g][t]), L::mul(d[g], L::bcast_float(x[t].d)), acc[g][t]);
    });
  }
};

template <class L>
struct WeightsQ80 {
  static constexpr int kRowBytes = 34;
  static constexpr bool kPlain = true;
  using Int = typename L::Int;
  [[gnu::always_inline]] static Int start(Int minus) { return L::start_s8(minus); }
  [[gnu::always_inline]] static Int unpack(const uint8_t* q, int k) {
    return L::weights_s8(L::line(q + k * kLineBytes));
  }
  [[gnu::always_inline]] static Int dot(Int sum, Int w, Int x) { return L::dot_s8(sum, w, x); }
};

// Lines 0 … 3 of weights are the low halves of four lines, 4 … 7 the high ones.
template <class L>
[[gnu::always_inline]] inline typename L::Int nibbles(const uint8_t* q, int k) {
  const typename L::Int line = L::line(q + k % 4 * kLineBytes);
  return L::and_bits(k < 4 ? line : L::shr(line, 4), 0x0F0F0F0F);
}

template <class L>
struct WeightsQ40 {
  static constexpr int kRowBytes = 18;
  static constexpr bool kPlain = false;
  using Int = typename L::Int;
  [[gnu::always_inline]] static Int start(Int minus) { return L::shl(minus, 3); }  // 8 too high
  [[gnu::always_inline]] static Int unpack(const uint8_t* q, int k) { return nibbles<L>(q, k); }
  [[gnu::always_inline]] static Int dot(Int sum, Int w, Int x) { return L::dot_u8(sum, w, x); }
};

// The first line has the fifth bits, bit i of weight i of the row.
template <class L>
struct WeightsQ50 {
  static constexpr int kRowBytes = 22;
  static constexpr bool kPlain = false;
  using Int = typename L::Int;
  [[gnu::always_inline]] static Int start(Int minus) { return L::shl(minus, 4); }  // 16 too high
  [[gnu::always_inline]] static Int unpack(const uint8_t* q, int k) {
    return L::or_bits(nibbles<L>(q + kLineBytes, k), L::fifth_bits(L::line(q), k));
  }
  [[gnu::always_inline]] static Int dot(Int sum, Int w, Int x) { return L::dot_u8(sum, w, x); }
};

}  // namespace
}  // namespace tandem
