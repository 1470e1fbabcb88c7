// The K-quants Q4_K and Q5_K, formats of 256 columns, as simd_formats.h has the others, and what
// Q6_K (simd_formats_q6k.h) has in common with them.
#pragma once

#include "kernels/simd_lanes.h"

namespace tandem {
namespace {

// A block's sum of the products of its sub-blocks, each times its integer scale, times d: in
// floats, from scales that d has been multiplied into; or (L::kWholeSums) in integers, and d comes
// last.
template <class L, bool kWhole = L::kWholeSums>
struct BlockSum {
  using Scale = typename L::Float;
  using Sum = typename L::Float;
  static Sum zero() { return L::zero_float(); }
  static Scale scale(typename L::Int s, typename L::Float d) { return L::mul(L::to_float(s), d); }
  static Sum add(Sum sum, typename L::Int part, Scale s) {
    return L::fma(L::to_float(part), s, sum);
  }
  static typename L::Float finish(Sum sum, typename L::Float /*d*/) { return sum; }
  // The same less 32 * excess * d.
  static typename L::Float finish(Sum sum, typename L::Int excess, typename L::Float d) {
    return L::fnma(L::to_float(excess), L::mul(d, L::set_float(32)), sum);
  }
};
template <class L>
struct BlockSum<L, true> {
  using Scale = typename L::Int;
  using Sum = typename L::Int;
  static Sum zero() { return L::zero(); }
  static Scale scale(typename L::Int s, typename L::Float /*d*/) { return s; }
  static Sum add(Sum sum, typename L::Int part, Scale s) {
    return L::add(sum, L::mul_int(part, s));
  }
  static typename L::Float finish(Sum sum, typename L::Float d) {
    return L::mul(L::to_float(sum), d);
  }
  static typename L::Float finish(Sum sum, typename L::Int excess, typename L::Float d) {
    return finish(L::sub(sum, L::shl(excess, 5)), d);
  }
};

// Byte `byte` of each lane as a scale, times d.
template <class L>
[[gnu::always_inline]] inline typename BlockSum<L>::Scale byte_scale(typename L::Int v, int byte,
                                                                     typename L::Float d) {
  return BlockSum<L>::scale(L::and_bits(L::shr(v, 8 * byte), 0xFF), d);
}

// The head of a Q4_K or Q5_K block: four lines, d | dmin << 16 and the 12 bytes of scales and
// minimums (their packing is described at scale_min() in simd_scalar.cc), four bytes at a time.
template <class L>
struct HeadK {
  typename BlockSum<L>::Scale scale[8];
  typename L::Float d;
  typename L::Float dmin;
  typename L::Int mins[4];  // int16 pairs: minimums 0 2, 1 3, 4 6, 5 7

  [[gnu::always_inline]] void read(const uint8_t* b, int lane) {
    const uint8_t* at = b + lane * 4;
    const typename L::Int ds = L::line(at);
    const typename L::Int w0 = L::line(at + kLineBytes);
    const typename L::Int w1 = L::line(at + 2 * kLineBytes);
    const typename L::Int w2 = L::line(at + 3 * kLineBytes);
    d = L::half_of(ds);
    dmin = L::half_of(L::shr(ds, 16));
    const typename L::Int scale_low = L::and_bits(w0, 0x3F3F3F3F);
    const typename L::Int scale_high =
        L::or_bits(L::and_bits(w2, 0x0F0F0F0F), L::and_bits(L::shr(w0, 2), 0x30303030));
    const typename L::Int min_low = L::and_bits(w1, 0x3F3F3F3F);
    const typename L::Int min_high =
        L::or_bits(L::and_bits(L::shr(w2, 4), 0x0F0F0F0F), L::and_bits(L::shr(w1, 2), 0x30303030));
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      scale[i] = byte_scale<L>(scale_low, i, d);
      scale[4 + i] = byte_scale<L>(scale_high, i, d);
    });
    mins[0] = L::and_bits(min_low, 0x00FF00FF);
    mins[1] = L::and_bits(L::shr(min_low, 8), 0x00FF00FF);
    mins[2] = L::and_bits(min_high, 0x00FF00FF);
    mins[3] = L::and_bits(L::shr(min_high, 8), 0x00FF00FF);
  }

  // x's scale * (sum - dmin * minimums . x's sums) + acc
  [[gnu::always_inline]] typename L::Float finish(const XBlock& x, typename BlockSum<L>::Sum sum,
                                                  typename L::Float acc) const {
    typename L::Int least = L::zero();
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      least = L::dot_i16(least, mins[i], L::bcast(x.sums + 4 * i));
    });
    const typename L::Float whole = L::fnma(L::to_float(least), dmin, BlockSum<L>::finish(sum, d));
    return L::fma(whole, L::bcast_float(x.d), acc);
  }
};

template <class L, int G, int T>
[[gnu::always_inline]] inline void clear(typename BlockSum<L>::Sum (&sum)[G][T]) {
  each<G, T>([&](auto g, auto t)
                 __attribute__((always_inline)) { sum[g][t] = BlockSum<L>::zero(); });
}

// sum[g][t] += scale(g) * (kLines lines of weights, four columns each, unpack(g, k)) . x[t].q[col
// …]
// ahead(k) is called before each line.
template <class L, int kLines, int G, int T, class Scale, class Unpack, class Ahead>
[[gnu::always_inline]] inline void add_sub_block(const Scale& scale, const XBlock* x, int col,
                                                 const Unpack& unpack, const Ahead& ahead,
                                                 typename BlockSum<L>::Sum (&sum)[G][T]) {
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
    sum[g][t] = BlockSum<L>::add(sum[g][t], part[g][t], scale(g));
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
    typename BlockSum<L>::Sum sum[G][T];
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
          return nibble_line(q + g * block.stride + k * kLineBytes, half);
        };
        const auto ahead = [&](int k) __attribute__((always_inline)) {
          block.template fetch_part<G, kBytes, 8, L::kAhead, L::kAheadToL2>(2 * p + half, k);
        };
        add_sub_block<L, 8>(scale, x, p * 64 + half * 32, unpack, ahead, sum);
      });
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = head[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }

  // Line k of sub-block s: four columns of each row.
  [[gnu::always_inline]] static typename L::Int weights(const uint8_t* block, int lane, int s,
                                                        int k) {
    return nibble_line(block + (4 + s / 2 * 8 + k) * kLineBytes + lane * 4, s % 2);
  }

 private:
  static constexpr int kFewSums = 4;

  [[gnu::always_inline]] static typename L::Int nibble_line(const uint8_t* at, int half) {
    const typename L::Int line = L::line(at);
    return L::and_bits(half == 0 ? line : L::shr(line, 4), 0x0F0F0F0F);
  }

  // Both sub-blocks of a pair at once: each line is loaded once, for twice as many sums.
  template <int G, int T>
  [[gnu::always_inline]] static void add_pair(const Block& block, const uint8_t* q, int pair,
                                              const HeadK<L> (&head)[G], const XBlock* x,
                                              typename BlockSum<L>::Sum (&sum)[G][T]) {
    typename L::Int low[G][T];
    typename L::Int high[G][T];
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      low[g][t] = L::zero();
      high[g][t] = L::zero();
    });
    unrolled<8>([&](auto k) __attribute__((always_inline)) {
      block.template fetch_part<G, kBytes, 4, L::kAhead, L::kAheadToL2>(pair, k);
      if (k == 7) block.template fetch_part<G, kBytes, 4, L::kAhead, L::kAheadToL2>(pair, 8);
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
      sum[g][t] = BlockSum<L>::add(sum[g][t], low[g][t], head[g].scale[2 * pair]);
      sum[g][t] = BlockSum<L>::add(sum[g][t], high[g][t], head[g].scale[2 * pair + 1]);
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
    typename BlockSum<L>::Sum sum[G][T];
    clear<L>(sum);
    const auto add = [&](int s, const auto& unpack) __attribute__((always_inline)) {
      const auto scale = [&](int g) __attribute__((always_inline)) { return head[g].scale[s]; };
      const auto ahead = [&](int k) __attribute__((always_inline)) {
        block.template fetch_part<G, kBytes, 8, L::kAhead, L::kAheadToL2>(s, k);
      };
      add_sub_block<L, 8>(scale, x, s * 32, unpack, ahead, sum);
    };
    if constexpr (G * T <= kFewSums) {
      unrolled<8>([&](auto s) __attribute__((always_inline)) {
        add(
            s, [&](int g, int k) __attribute__((always_inline)) {
              return weights(block.at + g * block.stride, lane, s, k);
            });
      });
    } else {
      for (int half = 0; half < 2; ++half) {
        unrolled<4>([&](auto j) __attribute__((always_inline)) {
          add(
              4 * half + j, [&](int g, int k) __attribute__((always_inline)) {
                const uint8_t* at = block.at + g * block.stride;
                return join(L::line(nibbles_line(at, lane, 2 * half + j / 2, k)),
                            L::shr(L::line(bits_line(at, lane, k)), 4 * half), j);
              });
        });
      }
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = head[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }

  [[gnu::always_inline]] static typename L::Int weights(const uint8_t* block, int lane, int s,
                                                        int k) {
    return join(L::line(nibbles_line(block, lane, s / 2, k)), L::line(bits_line(block, lane, k)),
                s);
  }

 private:
  static constexpr int kFewSums = 4;

  static const uint8_t* bits_line(const uint8_t* block, int lane, int k) {
    return block + (4 + k) * kLineBytes + lane * 4;
  }
  static const uint8_t* nibbles_line(const uint8_t* block, int lane, int pair, int k) {
    return block + (12 + pair * 8 + k) * kLineBytes + lane * 4;
  }
  // Fifth bits are bits s of `bits`. s is a constant: it chooses the shifts.
  [[gnu::always_inline]] static typename L::Int join(typename L::Int line, typename L::Int bits,
                                                     int s) {
    return L::pick(s % 2 == 0 ? line : L::shr(line, 4), 0x0F0F0F0F,
                   s > 4 ? L::shr(bits, s - 4) : L::shl(bits, 4 - s), 0x10101010);
  }
};

}  // namespace
}  // namespace tandem
