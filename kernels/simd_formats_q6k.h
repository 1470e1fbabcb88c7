// Q6_K, as simd_formats_k.h has the other K-quants.
#pragma once

#include "kernels/simd_formats_k.h"

namespace tandem {
namespace {

// The tail of a Q6_K block: four lines of signed scales, and 16 f16 scales behind them.
template <class L>
struct TailQ6K {
  typename L::Float d;
  typename BlockSum<L>::Scale scale[16];
  typename L::Int pairs[8];  // int16 pairs of scales 0 2, 1 3, 4 6 …

  [[gnu::always_inline]] void read(const uint8_t* b, int lane) {
    d = L::halves(b + 4 * kLineBytes + lane * 2);
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      const typename L::Int word = L::line(b + j * kLineBytes + lane * 4);
      pairs[2 * j] = L::even_bytes_s16(word);
      pairs[2 * j + 1] = L::odd_bytes_s16(word);
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        scale[4 * j + i] = BlockSum<L>::scale(L::sar(L::shl(word, 24 - 8 * i), 24), d);
      });
    });
  }

  // x's scale * (sum - 32 d * scales . x's sums) + acc: weights stand 32 too high.
  [[gnu::always_inline]] typename L::Float finish(const XBlock& x, typename BlockSum<L>::Sum sum,
                                                  typename L::Float acc) const {
    typename L::Int excess = L::zero();
    unrolled<8>([&](auto j) __attribute__((always_inline)) {
      excess = L::dot_i16(excess, pairs[j], L::bcast(x.fine + 4 * j));
    });
    return L::fma(BlockSum<L>::finish(sum, excess, d), L::bcast_float(x.d), acc);
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
    typename BlockSum<L>::Sum sum[G][T];
    clear<L>(sum);
    // Halves of the columns; of their four sub-blocks first all that have their first scale.
    if constexpr (G * T <= kFewSums) {
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        add_four(block, lane, i / 2, i % 2, tail, x, sum);
      });
    } else {
      for (int i = 0; i < 4; ++i) add_one_by_one(block, lane, i / 2, i % 2, tail, x, sum);
    }
    each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
      acc[g][t] = tail[g].finish(x[t], sum[g][t], acc[g][t]);
    });
  }

  // 32 too high; sub-blocks of 32 columns, the first four lines of which have the first scale.
  [[gnu::always_inline]] static typename L::Int weights(const uint8_t* block, int lane, int s,
                                                        int k) {
    return join(L::line(low_line(block, lane, s / 4, s % 2, k)),
                L::line(high_line(block, lane, s / 4, k)), s % 4);
  }

 private:
  static constexpr int kFewSums = L::kLanes == 16 ? 4 : 2;

  // Of a half: low bits of sub-blocks `odd` and `odd` + 2, high bits of all four.
  static const uint8_t* low_line(const uint8_t* block, int lane, int half, int odd, int k) {
    return block + (half * 16 + odd * 8 + k) * kLineBytes + lane * 4;
  }
  static const uint8_t* high_line(const uint8_t* block, int lane, int half, int k) {
    return block + (32 + half * 8 + k) * kLineBytes + lane * 4;
  }
  // The weights of sub-block j of a half.
  [[gnu::always_inline]] static typename L::Int join(typename L::Int low, typename L::Int high,
                                                     int j) {
    return L::pick(j < 2 ? low : L::shr(low, 4), 0x0F0F0F0F,
                   j < 2    ? L::shl(high, 4 - 2 * j)
                   : j == 2 ? high
                            : L::shr(high, 2),
                   0x30303030);
  }

  template <int G, int T>
  [[gnu::always_inline]] static void add_one_by_one(const Block& block, int lane, int half, int u,
                                                    const TailQ6K<L> (&tail)[G], const XBlock* x,
                                                    typename BlockSum<L>::Sum (&sum)[G][T]) {
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      const auto scale = [&](int g) __attribute__((always_inline)) {
        return tail[g].scale[2 * (4 * half + j) + u];
      };
      const auto unpack = [&](int g, auto k) __attribute__((always_inline)) {
        const uint8_t* at = block.at + g * block.stride;
        return join(L::line(low_line(at, lane, half, j % 2, 4 * u + k)),
                    L::line(high_line(at, lane, half, 4 * u + k)), j);
      };
      const auto ahead = [&](int k) __attribute__((always_inline)) {
        block.template fetch_part<G, kBytes, 16, L::kAhead + kBytes, L::kAheadToL2>(
            8 * half + 4 * u + j, k);
      };
      add_sub_block<L, 4>(scale, x, (4 * half + j) * 32 + u * 16, unpack, ahead, sum);
    });
  }
  // Four sub-blocks at once: each line is loaded once, for four times as many sums.
  template <int G, int T>
  [[gnu::always_inline]] static void add_four(const Block& block, int lane, int half, int u,
                                              const TailQ6K<L> (&tail)[G], const XBlock* x,
                                              typename BlockSum<L>::Sum (&sum)[G][T]) {
    typename L::Int part[4][G][T];
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      each<G, T>([&](auto g, auto t) __attribute__((always_inline)) { part[j][g][t] = L::zero(); });
    });
    unrolled<4>([&](auto kk) __attribute__((always_inline)) {
      const int k = 4 * u + kk;
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        block.template fetch_part<G, kBytes, 16, L::kAhead + kBytes, L::kAheadToL2>(
            8 * half + 4 * u + kk, i);
      });
      typename L::Int low[2][G];
      typename L::Int high[G];
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        const uint8_t* at = block.at + g * block.stride;
        low[0][g] = L::line(low_line(at, lane, half, 0, k));
        low[1][g] = L::line(low_line(at, lane, half, 1, k));
        high[g] = L::line(high_line(at, lane, half, k));
      });
      const auto dot = [](auto total, auto weights, auto column) __attribute__((always_inline)) {
        return L::dot_u8(total, weights, column);
      };
      unrolled<4>([&](auto j) __attribute__((always_inline)) {
        typename L::Int w[G];
        unrolled<G>([&](auto g)
                        __attribute__((always_inline)) { w[g] = join(low[j % 2][g], high[g], j); });
        add_line<L>(x, (4 * half + j) * 32 + k * 4, w, dot, part[j]);
      });
    });
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      each<G, T>([&](auto g, auto t) __attribute__((always_inline)) {
        sum[g][t] =
            BlockSum<L>::add(sum[g][t], part[j][g][t], tail[g].scale[2 * (4 * half + j) + u]);
      });
    });
  }
};

}  // namespace
}  // namespace tandem
