// Dot products of a packed group (packed.h) with packed activations, written once for all
// instruction sets: a template over Lanes, a vector of rows. Included by the files that are
// compiled for one instruction set only, so everything here has internal linkage.
//
// Lanes has kLanes rows (16 or a divisor), registers for kTokens tokens (or kFloatGroups groups
// times kFloatTokens tokens of a float format), and these operations; another instruction set
// (NEON) is one more such struct. Int: a dword in each lane, four bytes or two words of consecutive
// columns. Float: an f32 in each lane.
//   line(p) loads kLanes dwords; bcast(p), bcast_float(p) one, to every lane; load, store: kLanes
//   f32 and_bits, or_bits, shl, shr (logical), sar: on dwords even_bytes_s16, odd_bytes_s16: bytes
//   0 and 2, or 1 and 3, as signed words dot_u8(acc, w, x): acc + four products of unsigned w and
//   signed x dot_s8: with signed w, in the form of weights_s8(line), from a sum that is
//   start_s8(minus the
//     sum of all x that follow)
//   dot_i16: two products of signed words; dot_bf16: of bf16
//   half_of(v): the low word as f16; halves(p): kLanes f16; to_float: of int32; as_float: the bits
//   mul; fma(a, b, c): a b + c; fnma(a, b, c): c - a b
// A group is done kLanes rows at a time.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int kLineBytes = 64;

// A block of activations that are all smaller is zeros: 127 over its magnitude would overflow.
constexpr float kLeastMagnitude = 1e-36F;

// The loop would wait for memory: hardware fetches too little ahead. So what is read kAhead bytes
// later is asked for, a line with each line of weights: more at once would be more than a core's
// miss buffers hold.
constexpr int64_t kAhead = 3072;

// The same block of G groups, `stride` bytes apart.
struct Block {
  const uint8_t* at;
  int64_t stride;
  const uint8_t* end;  // of the first group's blocks,
  int64_t jump;        // and from there to what is read next
  bool fetches;        // one of the lanes' passes does

  // Asks for what stands kFar behind line `line` of the block.
  template <int G, int64_t kFar = kAhead>
  [[gnu::always_inline]] void fetch_ahead(int line) const {
    if (!fetches) return;
    const uint8_t* target = at + kFar + line * kLineBytes;
    target += target >= end ? jump : 0;
    unrolled<G>([&](auto g)
                    __attribute__((always_inline)) { __builtin_prefetch(target + g * stride); });
  }
  // The same for the lines of part `part` of kParts, one for each k from 0 on. In order, each once:
  // hardware that follows streams is led astray otherwise.
  template <int G, int kBytes, int kParts, int64_t kFar = kAhead>
  [[gnu::always_inline]] void fetch_part(int part, int k) const {
    constexpr int kLines = (kBytes + kLineBytes - 1) / kLineBytes;
    const int line = part * kLines / kParts + k;
    if (line < (part + 1) * kLines / kParts) fetch_ahead<G, kFar>(line);
  }
};

// A packed row of activations, from the block at hand on.
struct XBlock {
  const uint8_t* q;     // int8, bf16 or f32 values
  const uint8_t* d;     // f32 scale
  const uint8_t* sums;  // kQ8: int32 minus sum; kQ8K: int16 sums of 32, permuted
  const uint8_t* fine;  // kQ8K: int16 sums of 16, permuted
};

inline XBlock x_block_at(XKind kind, const std::byte* row, int64_t cols, int64_t col) {
  const auto* q = reinterpret_cast<const uint8_t*>(row);
  switch (kind) {
    case XKind::kFloat:
      return {q + col * 4, nullptr, nullptr, nullptr};
    case XKind::kBf16:
      return {q + col * 2, nullptr, nullptr, nullptr};
    case XKind::kQ8: {
      const uint8_t* d = q + cols;
      const uint8_t* sums = d + cols / 32 * 4;
      return {q + col, d + col / 32 * 4, sums + col / 32 * 4, nullptr};
    }
    default: {
      const uint8_t* d = q + cols;
      const uint8_t* sums = d + cols / 256 * 4;
      const uint8_t* fine = sums + cols / 32 * 2;
      return {q + col, d + col / 256 * 4, sums + col / 32 * 2, fine + col / 16 * 2};
    }
  }
}

// Formats: kCols columns in a block, kBytes of a group's block, and
// dot<G, T>(block, lane, x, acc): acc[g][t] += rows from `lane` on of the block of group g . x[t].

// Calls f(0) … f(n - 1) with constants: arrays that they index become registers, which a loop that
// is unrolled late does not achieve.
template <int... kI, class F>
[[gnu::always_inline]] inline void unrolled_over(const F& f, std::integer_sequence<int, kI...>) {
  (f(std::integral_constant<int, kI>{}), ...);
}
template <int kN, class F>
[[gnu::always_inline]] inline void unrolled(const F& f) {
  unrolled_over(f, std::make_integer_sequence<int, kN>{});
}
// Calls f(g, t) for all of them, in the same way.
template <int G, int T, class F>
[[gnu::always_inline]] inline void each(const F& f) {
  unrolled<T>([&](auto t) __attribute__((always_inline)) {
    unrolled<G>([&](auto g) __attribute__((always_inline)) { f(g, t); });
  });
}

// sum[g][t] = dot(sum[g][t], w[g], x[t].q[at …]): a line of each group.
template <class L, int G, int T, class Sum, class W, class Dot>
[[gnu::always_inline]] inline void add_line(const XBlock* x, int at, const W* w, const Dot& dot,
                                            Sum (&sum)[G][T]) {
  unrolled<T>([&](auto t) __attribute__((always_inline)) {
    const typename L::Int column = L::bcast(x[t].q + at);
    unrolled<G>([&](auto g)
                    __attribute__((always_inline)) { sum[g][t] = dot(sum[g][t], w[g], column); });
  });
}

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
      block.fetch_ahead<G>(k);
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
      block.fetch_ahead<G>(k);
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

template <class L, int kLines>
struct PackedBf16 {
  static constexpr int kCols = 2 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kBf16;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
      block.fetch_ahead<G>(k);
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
// of weights. Weights::start is what their dot product starts from, given minus the sum of x.
template <class L, class Weights>
struct Packed32 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * Weights::kRowBytes;
  static constexpr XKind kX = XKind::kQ8;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    typename L::Int sum[G][T];
    unrolled<T>([&](auto t) __attribute__((always_inline)) {
      const typename L::Int start = Weights::start(L::bcast(x[t].sums));
      unrolled<G>([&](auto g) __attribute__((always_inline)) { sum[g][t] = start; });
    });
    const uint8_t* q = block.at + 32 + lane * 4;
    unrolled<8>([&](auto k) __attribute__((always_inline)) {
      block.fetch_part<G, kBytes, 1>(0, k);
      if (k == 7) block.fetch_part<G, kBytes, 1>(0, 8);
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
  using Int = typename L::Int;
  [[gnu::always_inline]] static Int start(Int minus) { return L::shl(minus, 3); }  // 8 too high
  [[gnu::always_inline]] static Int unpack(const uint8_t* q, int k) { return nibbles<L>(q, k); }
  [[gnu::always_inline]] static Int dot(Int sum, Int w, Int x) { return L::dot_u8(sum, w, x); }
};

// The first line has the fifth bits, bit i of weight i of the row.
template <class L>
struct WeightsQ50 {
  static constexpr int kRowBytes = 22;
  using Int = typename L::Int;
  [[gnu::always_inline]] static Int start(Int minus) { return L::shl(minus, 4); }  // 16 too high
  [[gnu::always_inline]] static Int unpack(const uint8_t* q, int k) {
    const Int four = L::and_bits(L::shr(L::line(q), 4 * k), 0xF);
    const Int spread = L::or_bits(L::or_bits(four, L::shl(four, 7)),
                                  L::or_bits(L::shl(four, 14), L::shl(four, 21)));
    const Int fifth = L::shl(L::and_bits(spread, 0x01010101), 4);
    return L::or_bits(nibbles<L>(q + kLineBytes, k), fifth);
  }
  [[gnu::always_inline]] static Int dot(Int sum, Int w, Int x) { return L::dot_u8(sum, w, x); }
};

// Byte `byte` of each lane as a float, times d.
template <class L>
[[gnu::always_inline]] inline typename L::Float byte_times(typename L::Int v, int byte,
                                                           typename L::Float d) {
  return L::mul(L::to_float(L::and_bits(L::shr(v, 8 * byte), 0xFF)), d);
}

// The head of a Q4_K or Q5_K block: four lines, d | dmin << 16 and the 12 bytes of scales and
// minimums (their packing is described at scale_min() in simd_scalar.cc), four bytes at a time.
template <class L>
struct HeadK {
  typename L::Float scale[8];  // times d
  typename L::Float dmin;
  typename L::Int mins[4];  // int16 pairs: minimums 0 2, 1 3, 4 6, 5 7

  [[gnu::always_inline]] void read(const uint8_t* b, int lane) {
    const uint8_t* at = b + lane * 4;
    const typename L::Int ds = L::line(at);
    const typename L::Int w0 = L::line(at + kLineBytes);
    const typename L::Int w1 = L::line(at + 2 * kLineBytes);
    const typename L::Int w2 = L::line(at + 3 * kLineBytes);
    const typename L::Float d = L::half_of(ds);
    dmin = L::half_of(L::shr(ds, 16));
    const typename L::Int scale_low = L::and_bits(w0, 0x3F3F3F3F);
    const typename L::Int scale_high =
        L::or_bits(L::and_bits(w2, 0x0F0F0F0F), L::and_bits(L::shr(w0, 2), 0x30303030));
    const typename L::Int min_low = L::and_bits(w1, 0x3F3F3F3F);
    const typename L::Int min_high =
        L::or_bits(L::and_bits(L::shr(w2, 4), 0x0F0F0F0F), L::and_bits(L::shr(w1, 2), 0x30303030));
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      scale[i] = byte_times<L>(scale_low, i, d);
      scale[4 + i] = byte_times<L>(scale_high, i, d);
    });
    mins[0] = L::and_bits(min_low, 0x00FF00FF);
    mins[1] = L::and_bits(L::shr(min_low, 8), 0x00FF00FF);
    mins[2] = L::and_bits(min_high, 0x00FF00FF);
    mins[3] = L::and_bits(L::shr(min_high, 8), 0x00FF00FF);
  }

  // x's scale * (sum - dmin * minimums . x's sums) + acc
  [[gnu::always_inline]] typename L::Float finish(const XBlock& x, typename L::Float sum,
                                                  typename L::Float acc) const {
    typename L::Int least = L::zero();
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      least = L::dot_i16(least, mins[i], L::bcast(x.sums + 4 * i));
    });
    const typename L::Float whole = L::fnma(L::to_float(least), dmin, sum);
    return L::fma(whole, L::bcast_float(x.d), acc);
  }
};

template <class L, int G, int T>
[[gnu::always_inline]] inline void clear(typename L::Float (&sum)[G][T]) {
  each<G, T>([&](auto g, auto t) __attribute__((always_inline)) { sum[g][t] = L::zero_float(); });
}

// sum[g][t] += scale(g) * (kLines lines of weights, four columns each, unpack(g, k)) . x[t].q[col
// …]
// ahead(k) is called before each line.
template <class L, int kLines, int G, int T, class Scale, class Unpack, class Ahead>
[[gnu::always_inline]] inline void add_sub_block(const Scale& scale, const XBlock* x, int col,
                                                 const Unpack& unpack, const Ahead& ahead,
                                                 typename L::Float (&sum)[G][T]) {
  typename L::Int part[G][T];
  each<G, T>([&](auto g, auto t) __attribute__((always_inline)) { part[g][t] = L::zero(); });
  unrolled<kLines>([&](auto k) __attribute__((always_inline)) {
    ahead(k);
    typename L::Int w[G];
    unrolled<G>([&](auto g) __attribute__((always_inline)) { w[g] = unpack(g, k); });
    const auto dot = [](auto total, auto weights, auto column) __attribute__((always_inline)) {
      return L::dot_u8(total, weights, column);
    };
    add_line<L>(x, col + k * 4, w, dot, part);
  });
  each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
    sum[g][t] = L::fma(L::to_float(part[g][t]), scale(g), sum[g][t]);
  });
}

template <class L>
struct PackedQ4K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 144;
  static constexpr XKind kX = XKind::kQ8K;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    HeadK<L> head[G];
    unrolled<G>([&](auto g) __attribute__((always_inline)) {
      head[g].read(block.at + g * block.stride, lane);
    });
    typename L::Float sum[G][T];
    clear<L>(sum);
    const uint8_t* q = block.at + 4 * kLineBytes + lane * 4;
    for (int p = 0; p < 4; ++p, q += 8 * kLineBytes) {
      if constexpr (G * T <= kFewSums) {
        add_pair(block, q, p, head, x, sum);
        continue;
      }
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        const auto scale = [&](int g) __attribute__((always_inline)) {
          return head[g].scale[2 * p + half];
        };
        const auto unpack = [&](int g, int k) __attribute__((always_inline)) {
          const typename L::Int line = L::line(q + g * block.stride + k * kLineBytes);
          return L::and_bits(half == 0 ? line : L::shr(line, 4), 0x0F0F0F0F);
        };
        const auto ahead = [&](int k) __attribute__((always_inline)) {
          block.fetch_part<G, kBytes, 8>(2 * p + half, k);
        };
        add_sub_block<L, 8>(scale, x, p * 64 + half * 32, unpack, ahead, sum);
      });
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = head[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }

 private:
  static constexpr int kFewSums = 4;

  // Both sub-blocks of a pair at once: each line is loaded once, for twice as many sums.
  template <int G, int T>
  [[gnu::always_inline]] static void add_pair(const Block& block, const uint8_t* q, int pair,
                                              const HeadK<L> (&head)[G], const XBlock* x,
                                              typename L::Float (&sum)[G][T]) {
    typename L::Int low[G][T];
    typename L::Int high[G][T];
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      low[g][t] = L::zero();
      high[g][t] = L::zero();
    });
    unrolled<8>([&](auto k) __attribute__((always_inline)) {
      block.template fetch_part<G, kBytes, 4>(pair, k);
      if (k == 7) block.template fetch_part<G, kBytes, 4>(pair, 8);
      typename L::Int w_low[G];
      typename L::Int w_high[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        const typename L::Int line = L::line(q + g * block.stride + k * kLineBytes);
        w_low[g] = L::and_bits(line, 0x0F0F0F0F);
        w_high[g] = L::and_bits(L::shr(line, 4), 0x0F0F0F0F);
      });
      const auto dot = [](auto total, auto weights, auto column) __attribute__((always_inline)) {
        return L::dot_u8(total, weights, column);
      };
      add_line<L>(x, pair * 64 + k * 4, w_low, dot, low);
      add_line<L>(x, pair * 64 + 32 + k * 4, w_high, dot, high);
    });
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      sum[g][t] = L::fma(L::to_float(low[g][t]), head[g].scale[2 * pair], sum[g][t]);
      sum[g][t] = L::fma(L::to_float(high[g][t]), head[g].scale[2 * pair + 1], sum[g][t]);
    });
  }
};

template <class L>
struct PackedQ5K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 176;
  static constexpr XKind kX = XKind::kQ8K;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    HeadK<L> head[G];
    unrolled<G>([&](auto g) __attribute__((always_inline)) {
      head[g].read(block.at + g * block.stride, lane);
    });
    typename L::Float sum[G][T];
    clear<L>(sum);
    const uint8_t* bits = block.at + 4 * kLineBytes + lane * 4;
    const uint8_t* q = bits + 8 * kLineBytes;
    for (int s = 0; s < 8; ++s) {
      const auto scale = [&](int g) __attribute__((always_inline)) { return head[g].scale[s]; };
      const auto unpack = [&](int g, int k) __attribute__((always_inline)) {
        const int64_t at = g * block.stride + k * kLineBytes;
        const typename L::Int line = L::line(q + s / 2 * 8 * kLineBytes + at);
        const typename L::Int bit = L::and_bits(L::shr(L::line(bits + at), s), 0x01010101);
        return L::or_bits(L::and_bits(L::shr(line, s % 2 * 4), 0x0F0F0F0F), L::shl(bit, 4));
      };
      const auto ahead = [&](int k) __attribute__((always_inline)) {
        block.fetch_part<G, kBytes, 8>(s, k);
      };
      add_sub_block<L, 8>(scale, x, s * 32, unpack, ahead, sum);
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = head[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }
};

// The tail of a Q6_K block: four lines of signed scales, and 16 f16 scales behind them.
template <class L>
struct TailQ6K {
  typename L::Float d;
  typename L::Float scale[16];  // times d
  typename L::Int pairs[8];     // int16 pairs of scales 0 2, 1 3, 4 6 …

  [[gnu::always_inline]] void read(const uint8_t* b, int lane) {
    d = L::halves(b + 4 * kLineBytes + lane * 2);
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      const typename L::Int word = L::line(b + j * kLineBytes + lane * 4);
      pairs[2 * j] = L::even_bytes_s16(word);
      pairs[2 * j + 1] = L::odd_bytes_s16(word);
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        scale[4 * j + i] = L::mul(L::to_float(L::sar(L::shl(word, 24 - 8 * i), 24)), d);
      });
    });
  }

  // x's scale * (sum - 32 d * scales . x's sums) + acc: weights stand 32 too high.
  [[gnu::always_inline]] typename L::Float finish(const XBlock& x, typename L::Float sum,
                                                  typename L::Float acc) const {
    typename L::Int excess = L::zero();
    unrolled<8>([&](auto j) __attribute__((always_inline)) {
      excess = L::dot_i16(excess, pairs[j], L::bcast(x.fine + 4 * j));
    });
    const typename L::Float whole = L::fnma(L::to_float(excess), L::mul(d, L::set_float(32)), sum);
    return L::fma(whole, L::bcast_float(x.d), acc);
  }
};

template <class L>
struct PackedQ6K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 210;
  static constexpr XKind kX = XKind::kQ8K;
  template <int G, int T>
  [[gnu::always_inline]] static void dot(const Block& block, int lane, const XBlock* x,
                                         typename L::Float (&acc)[G][T]) {
    TailQ6K<L> tail[G];
    unrolled<G>([&](auto g) __attribute__((always_inline)) {
      tail[g].read(block.at + g * block.stride + 48 * kLineBytes, lane);
    });
    typename L::Float sum[G][T];
    clear<L>(sum);
    const uint8_t* low = block.at + lane * 4;
    const uint8_t* high = low + 32 * kLineBytes;
    for (int s = 0; s < 8; ++s) {  // 32 columns each, two scales
      const uint8_t* ql = low + (s / 4 * 16 + s % 2 * 8) * kLineBytes;
      const uint8_t* qh = high + s / 4 * 8 * kLineBytes;
      const int low_shift = s % 4 / 2 * 4;
      const int high_shift = s % 4 * 2;
      unrolled<2>([&](auto u) __attribute__((always_inline)) {
        const auto scale = [&](int g) __attribute__((always_inline)) {
          return tail[g].scale[2 * s + u];
        };
        const auto unpack = [&](int g, int k) __attribute__((always_inline)) {
          const int64_t at = g * block.stride + (4 * u + k) * kLineBytes;
          const typename L::Int four = L::and_bits(L::shr(L::line(ql + at), low_shift), 0x0F0F0F0F);
          const typename L::Int two = L::and_bits(L::shr(L::line(qh + at), high_shift), 0x03030303);
          return L::or_bits(four, L::shl(two, 4));
        };
        const auto ahead = [&](int k) __attribute__((always_inline)) {
          block.fetch_part<G, kBytes, 16, kAhead + kBytes>(2 * s + u, k);
        };
        add_sub_block<L, 4>(scale, x, s * 32 + u * 16, unpack, ahead, sum);
      });
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = tail[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }
};

struct PackedArgs {
  const uint8_t* group;
  int64_t group_stride;
  const uint8_t* next;
  int64_t cols;
  int64_t first_col;
  int64_t n_cols;
  const std::byte* const* x;
  float* out;
  int64_t out_stride;
};

// The blocks of Format from `block` on, as many as there are in n columns; returns those done.
template <class L, class Format, int G, int T>
[[gnu::always_inline]] inline int64_t dot_blocks(Block* block, int lane, int64_t n, XBlock* x,
                                                 typename L::Float (&acc)[G][T]) {
  constexpr int kX = Format::kX == XKind::kFloat ? 4 : Format::kX == XKind::kBf16 ? 2 : 1;
  int64_t col = 0;
  for (; col + Format::kCols <= n; col += Format::kCols, block->at += Format::kBytes) {
    Format::template dot<G, T>(*block, lane, x, acc);
    unrolled<T>([&](auto t) __attribute__((always_inline)) {
      x[t].q += Format::kCols * kX;
      if constexpr (Format::kX == XKind::kQ8) {
        x[t].d += 4;
        x[t].sums += 4;
      } else if constexpr (Format::kX == XKind::kQ8K) {
        x[t].d += 4;
        x[t].sums += 16;
        x[t].fine += 32;
      }
    });
  }
  return col;
}

// Single: what is left of float formats at the end; the same as Format for the others. Last: the
// line of an odd column.
template <class L, class Format, class Single, class Last, int G, int T>
void dot_packed_tokens(const PackedArgs& a) {
  for (int lane = 0; lane < 16; lane += L::kLanes) {
    XBlock x[T];
    typename L::Float acc[G][T];
    unrolled<T>([&](auto t) __attribute__((always_inline)) {
      x[t] = x_block_at(Format::kX, a.x[t], a.cols, a.first_col);
    });
    const auto out = [&](auto g, auto t) __attribute__((always_inline)) {
      return a.out + t * a.out_stride + g * 16 + lane;
    };
    each<G, T>([&](int g, int t)
                   __attribute__((always_inline)) { acc[g][t] = L::load(out(g, t)); });
    const int64_t bytes = (a.n_cols + Single::kCols - 1) / Single::kCols * int64_t{Single::kBytes};
    Block block{a.group, a.group_stride, a.group + bytes, a.next - (a.group + bytes), lane == 0};
    const int64_t done = dot_blocks<L, Format, G, T>(&block, lane, a.n_cols, x, acc);
    if constexpr (Format::kCols != Single::kCols) {
      const int64_t left = a.n_cols - done;
      const int64_t odd = left - dot_blocks<L, Single, G, T>(&block, lane, left, x, acc);
      if (odd > 0) dot_blocks<L, Last, G, T>(&block, lane, Last::kCols, x, acc);
    }
    each<G, T>([&](int g, int t)
                   __attribute__((always_inline)) { L::store(out(g, t), acc[g][t]); });
  }
}

// Sanitizers make each vector operation many: builds with them take minutes and gigabytes for the
// larger tiles, and what is checked is the same code.
#ifdef TANDEM_SMALL_TILES
constexpr int kMostTokens = 2;
#else
constexpr int kMostTokens = 16;
#endif
constexpr int at_most(int tokens) { return tokens < kMostTokens ? tokens : kMostTokens; }

// What one call holds in registers. Float formats have nothing to unpack, and are limited by loads
// of columns, which two groups share; the others sum integers and floats, and unpack for more
// tokens.
template <class L>
constexpr DotTile tile_on(XKind kind) {
  const bool floats = kind == XKind::kFloat || kind == XKind::kBf16;
  return floats ? DotTile{L::kFloatGroups, at_most(L::kFloatTokens)}
                : DotTile{1, at_most(L::kTokens)};
}

template <class L, class Format, class Single, class Last, int G, int T>
void dot_packed_groups(const PackedArgs& args, int64_t n_tokens) {
  if (n_tokens == T) return dot_packed_tokens<L, Format, Single, Last, G, T>(args);
  if constexpr (T > 1) dot_packed_groups<L, Format, Single, Last, G, T - 1>(args, n_tokens);
}

template <class L, class Format, class Single = Format, class Last = Single>
void dot_packed_format(const PackedArgs& args, int64_t n_groups, int64_t n_tokens) {
  constexpr DotTile kTile = tile_on<L>(Format::kX);
  if constexpr (kTile.groups > 1) {
    if (n_groups == 1)
      return dot_packed_groups<L, Format, Single, Last, 1, kTile.tokens>(args, n_tokens);
  }
  dot_packed_groups<L, Format, Single, Last, kTile.groups, kTile.tokens>(args, n_tokens);
}

template <class L>
void dot_packed_on(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                   const std::byte* next, int64_t cols, int64_t first_col, int64_t n_cols,
                   const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride) {
  const PackedArgs args{reinterpret_cast<const uint8_t*>(group),
                        group_stride,
                        reinterpret_cast<const uint8_t*>(next),
                        cols,
                        first_col,
                        n_cols,
                        x,
                        out,
                        out_stride};
  switch (type) {
    case DType::kF32:
      return dot_packed_format<L, PackedF32<L, 8>, PackedF32<L, 1>>(args, n_groups, n_tokens);
    case DType::kF16:
      return dot_packed_format<L, PackedF16<L, 8>, PackedF16<L, 1>, OddF16<L>>(args, n_groups,
                                                                               n_tokens);
    case DType::kBF16:
      return dot_packed_format<L, PackedBf16<L, 8>, PackedBf16<L, 1>>(args, n_groups, n_tokens);
    case DType::kQ4_0:
      return dot_packed_format<L, Packed32<L, WeightsQ40<L>>>(args, n_groups, n_tokens);
    case DType::kQ5_0:
      return dot_packed_format<L, Packed32<L, WeightsQ50<L>>>(args, n_groups, n_tokens);
    case DType::kQ8_0:
      return dot_packed_format<L, Packed32<L, WeightsQ80<L>>>(args, n_groups, n_tokens);
    case DType::kQ4_K:
      return dot_packed_format<L, PackedQ4K<L>>(args, n_groups, n_tokens);
    case DType::kQ5_K:
      return dot_packed_format<L, PackedQ5K<L>>(args, n_groups, n_tokens);
    case DType::kQ6_K:
      return dot_packed_format<L, PackedQ6K<L>>(args, n_groups, n_tokens);
  }
}

}  // namespace
}  // namespace tandem
