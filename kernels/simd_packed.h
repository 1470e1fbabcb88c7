// Dot products of a packed group (packed.h) with packed activations, written once for all
// instruction sets: a template over Lanes, a vector of rows. Included by the files that are
// compiled for one instruction set only, so everything here has internal linkage.
//
// Lanes has kLanes rows (16 or a divisor), kMaxTokens tokens in registers, and these operations;
// another instruction set (NEON) is one more such struct. Int: a dword in each lane, four bytes or
// two words of consecutive columns. Float: an f32 in each lane.
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

#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int kLineBytes = 64;

// A block of activations that are all smaller is zeros: 127 over its magnitude would overflow.
constexpr float kLeastMagnitude = 1e-36F;

// With few tokens the loop waits for memory, and hardware fetches too little ahead. So what stands
// kAhead bytes behind a block is asked for while the block is done, a part with each of its
// sub-blocks: more at once would be more than a core's miss buffers hold.
constexpr int64_t kAhead = 3072;
constexpr int kMemoryBound = 16;  // tokens

// The lines of part `part` of `parts` of a block of kBytes.
template <int T, int kBytes>
[[gnu::always_inline]] inline void fetch_ahead(const uint8_t* b, int lane, int part, int parts) {
  if constexpr (T <= kMemoryBound) {
    if (lane != 0) return;
    const int lines = kBytes / kLineBytes + 1;
    const uint8_t* first = b + kAhead + part * lines / parts * kLineBytes;
    const uint8_t* last = b + kAhead + (part + 1) * lines / parts * kLineBytes;
    for (; first < last; first += kLineBytes) __builtin_prefetch(first);
  }
}

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
// dot<T>(block, lane, x, acc): acc[t] += block's rows from `lane` on . x[t].

// The float formats have a line a block; kLines of them are done at a time.
template <class L, int kLines>
struct PackedF32 {
  static constexpr int kCols = kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kFloat;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
#pragma GCC unroll 16
    for (int k = 0; k < kLines; ++k) {
      const typename L::Float w = L::as_float(L::line(b + k * kLineBytes + lane * 4));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) acc[t] = L::fma(w, L::bcast_float(x[t].q + k * 4), acc[t]);
    }
  }
};

template <class L, int kLines>
struct PackedF16 {
  static constexpr int kCols = 2 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kFloat;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
#pragma GCC unroll 16
    for (int k = 0; k < kLines; ++k) {
      const typename L::Int line = L::line(b + k * kLineBytes + lane * 4);
      const typename L::Float even = L::half_of(line);
      const typename L::Float odd = L::half_of(L::shr(line, 16));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        acc[t] = L::fma(even, L::bcast_float(x[t].q + k * 8), acc[t]);
        acc[t] = L::fma(odd, L::bcast_float(x[t].q + k * 8 + 4), acc[t]);
      }
    }
  }
};

template <class L, int kLines>
struct PackedBf16 {
  static constexpr int kCols = 2 * kLines;
  static constexpr int kBytes = 64 * kLines;
  static constexpr XKind kX = XKind::kBf16;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
#pragma GCC unroll 16
    for (int k = 0; k < kLines; ++k) {
      const typename L::Int w = L::line(b + k * kLineBytes + lane * 4);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) acc[t] = L::dot_bf16(acc[t], w, L::bcast(x[t].q + k * 4));
    }
  }
};

// acc[t] += d * x's scale * sum, for the formats of 32 columns.
template <class L, int T>
[[gnu::always_inline]] inline void add_scaled(typename L::Float d, const XBlock* x,
                                              const typename L::Int* sum, typename L::Float* acc) {
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    acc[t] = L::fma(L::to_float(sum[t]), L::mul(d, L::bcast_float(x[t].d)), acc[t]);
  }
}

template <class L>
struct PackedQ80 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * 34;
  static constexpr XKind kX = XKind::kQ8;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    typename L::Int sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::start_s8(L::bcast(x[t].sums));
    const uint8_t* q = b + 32 + lane * 4;
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const typename L::Int w = L::weights_s8(L::line(q + k * kLineBytes));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = L::dot_s8(sum[t], w, L::bcast(x[t].q + k * 4));
    }
    add_scaled<L, T>(L::halves(b + lane * 2), x, sum, acc);
  }
};

template <class L>
struct PackedQ40 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * 18;
  static constexpr XKind kX = XKind::kQ8;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    typename L::Int sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::shl(L::bcast(x[t].sums), 3);
    const uint8_t* q = b + 32 + lane * 4;
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const typename L::Int line = L::line(q + k * kLineBytes);
      const typename L::Int low = L::and_bits(line, 0x0F0F0F0F);
      const typename L::Int high = L::and_bits(L::shr(line, 4), 0x0F0F0F0F);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = L::dot_u8(sum[t], low, L::bcast(x[t].q + k * 4));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = L::dot_u8(sum[t], high, L::bcast(x[t].q + 16 + k * 4));
    }
    add_scaled<L, T>(L::halves(b + lane * 2), x, sum, acc);
  }
};

// Bits 4k … 4k + 3 of a row's fifth bits, one to each byte, as 16.
template <class L>
[[gnu::always_inline]] inline typename L::Int fifth_bits(typename L::Int bits, int k) {
  const typename L::Int four = L::and_bits(L::shr(bits, 4 * k), 0xF);
  const typename L::Int spread =
      L::or_bits(L::or_bits(four, L::shl(four, 7)), L::or_bits(L::shl(four, 14), L::shl(four, 21)));
  return L::shl(L::and_bits(spread, 0x01010101), 4);
}

template <class L>
struct PackedQ50 {
  static constexpr int kCols = 32;
  static constexpr int kBytes = 16 * 22;
  static constexpr XKind kX = XKind::kQ8;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    typename L::Int sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::shl(L::bcast(x[t].sums), 4);
    const uint8_t* q = b + 32 + lane * 4;
    const typename L::Int bits = L::line(q);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const typename L::Int line = L::line(q + (1 + k) * kLineBytes);
      const typename L::Int low = L::or_bits(L::and_bits(line, 0x0F0F0F0F), fifth_bits<L>(bits, k));
      const typename L::Int high =
          L::or_bits(L::and_bits(L::shr(line, 4), 0x0F0F0F0F), fifth_bits<L>(bits, k + 4));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = L::dot_u8(sum[t], low, L::bcast(x[t].q + k * 4));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = L::dot_u8(sum[t], high, L::bcast(x[t].q + 16 + k * 4));
    }
    add_scaled<L, T>(L::halves(b + lane * 2), x, sum, acc);
  }
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

  [[gnu::always_inline]] HeadK(const uint8_t* b, int lane) {
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
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      scale[i] = byte_times<L>(scale_low, i, d);
      scale[4 + i] = byte_times<L>(scale_high, i, d);
    }
    mins[0] = L::and_bits(min_low, 0x00FF00FF);
    mins[1] = L::and_bits(L::shr(min_low, 8), 0x00FF00FF);
    mins[2] = L::and_bits(min_high, 0x00FF00FF);
    mins[3] = L::and_bits(L::shr(min_high, 8), 0x00FF00FF);
  }

  // acc[t] += x's scale * (sum[t] - dmin * minimums . x's sums)
  template <int T>
  [[gnu::always_inline]] void finish(const XBlock* x, const typename L::Float* sum,
                                     typename L::Float* acc) const {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      typename L::Int least = L::zero();
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        least = L::dot_i16(least, mins[i], L::bcast(x[t].sums + 4 * i));
      }
      const typename L::Float whole = L::fnma(L::to_float(least), dmin, sum[t]);
      acc[t] = L::fma(whole, L::bcast_float(x[t].d), acc[t]);
    }
  }
};

// sum[t] += scale * (n_lines lines of weights, four columns each, unpack(k)) . x[t].q[col …]
template <class L, int T, int kLines, class Unpack>
[[gnu::always_inline]] inline void add_sub_block(typename L::Float scale, const XBlock* x, int col,
                                                 const Unpack& unpack, typename L::Float* sum) {
  typename L::Int part[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) part[t] = L::zero();
#pragma GCC unroll 8
  for (int k = 0; k < kLines; ++k) {
    const typename L::Int w = unpack(k);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) part[t] = L::dot_u8(part[t], w, L::bcast(x[t].q + col + k * 4));
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) sum[t] = L::fma(L::to_float(part[t]), scale, sum[t]);
}

template <class L>
struct PackedQ4K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 144;
  static constexpr XKind kX = XKind::kQ8K;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    const HeadK<L> head(b, lane);
    typename L::Float sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::zero_float();
    const uint8_t* q = b + 4 * kLineBytes + lane * 4;
    for (int p = 0; p < 4; ++p, q += 8 * kLineBytes) {
      fetch_ahead<T, kBytes>(b, lane, p, 4);
      const auto low = [&](int k) __attribute__((always_inline)) {
        return L::and_bits(L::line(q + k * kLineBytes), 0x0F0F0F0F);
      };
      const auto high = [&](int k) __attribute__((always_inline)) {
        return L::and_bits(L::shr(L::line(q + k * kLineBytes), 4), 0x0F0F0F0F);
      };
      add_sub_block<L, T, 8>(head.scale[2 * p], x, p * 64, low, sum);
      add_sub_block<L, T, 8>(head.scale[2 * p + 1], x, p * 64 + 32, high, sum);
    }
    head.template finish<T>(x, sum, acc);
  }
};

template <class L>
struct PackedQ5K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 176;
  static constexpr XKind kX = XKind::kQ8K;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    const HeadK<L> head(b, lane);
    typename L::Float sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::zero_float();
    const uint8_t* bits = b + 4 * kLineBytes + lane * 4;
    const uint8_t* q = bits + 8 * kLineBytes;
    for (int s = 0; s < 8; ++s) {
      fetch_ahead<T, kBytes>(b, lane, s, 8);
      const auto unpack = [&](int k) __attribute__((always_inline)) {
        const typename L::Int line = L::line(q + (s / 2 * 8 + k) * kLineBytes);
        const typename L::Int bit =
            L::and_bits(L::shr(L::line(bits + k * kLineBytes), s), 0x01010101);
        return L::or_bits(L::and_bits(L::shr(line, s % 2 * 4), 0x0F0F0F0F), L::shl(bit, 4));
      };
      add_sub_block<L, T, 8>(head.scale[s], x, s * 32, unpack, sum);
    }
    head.template finish<T>(x, sum, acc);
  }
};

template <class L>
struct PackedQ6K {
  static constexpr int kCols = 256;
  static constexpr int kBytes = 16 * 210;
  static constexpr XKind kX = XKind::kQ8K;
  template <int T>
  [[gnu::always_inline]] static void dot(const uint8_t* b, int lane, const XBlock* x,
                                         typename L::Float* acc) {
    const uint8_t* low = b + lane * 4;
    const uint8_t* high = low + 32 * kLineBytes;
    const typename L::Float d = L::halves(b + 52 * kLineBytes + lane * 2);
    typename L::Float scale[16];
    typename L::Int pairs[8];  // int16 pairs of scales 0 2, 1 3, 4 6 …
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const typename L::Int word = L::line(low + (48 + j) * kLineBytes);
      pairs[2 * j] = L::even_bytes_s16(word);
      pairs[2 * j + 1] = L::odd_bytes_s16(word);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        scale[4 * j + i] = L::mul(L::to_float(L::sar(L::shl(word, 24 - 8 * i), 24)), d);
      }
    }
    typename L::Float sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = L::zero_float();
    for (int s = 0; s < 8; ++s) {  // 32 columns each, two scales
      fetch_ahead<T, kBytes>(b, lane, s, 8);
      const uint8_t* ql = low + (s / 4 * 16 + s % 2 * 8) * kLineBytes;
      const uint8_t* qh = high + s / 4 * 8 * kLineBytes;
      const int low_shift = s % 4 / 2 * 4;
      const int high_shift = s % 4 * 2;
#pragma GCC unroll 2
      for (int u = 0; u < 2; ++u) {
        const auto unpack = [&](int k) __attribute__((always_inline)) {
          const typename L::Int four = L::shr(L::line(ql + (4 * u + k) * kLineBytes), low_shift);
          const typename L::Int two = L::shr(L::line(qh + (4 * u + k) * kLineBytes), high_shift);
          return L::or_bits(L::and_bits(four, 0x0F0F0F0F), L::shl(L::and_bits(two, 0x03030303), 4));
        };
        add_sub_block<L, T, 4>(scale[2 * s + u], x, s * 32 + u * 16, unpack, sum);
      }
    }
    // Weights stand 32 too high.
    const typename L::Float d32 = L::mul(d, L::set_float(32));
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      typename L::Int excess = L::zero();
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        excess = L::dot_i16(excess, pairs[j], L::bcast(x[t].fine + 4 * j));
      }
      const typename L::Float whole = L::fnma(L::to_float(excess), d32, sum[t]);
      acc[t] = L::fma(whole, L::bcast_float(x[t].d), acc[t]);
    }
  }
};

struct PackedArgs {
  const uint8_t* group;
  int64_t cols;
  int64_t first_col;
  int64_t n_cols;
  const std::byte* const* x;
  float* out;
  int64_t out_stride;
};

// The blocks of Format from `b` on, as many as there are in n columns; returns those done.
template <class L, class Format, int T>
[[gnu::always_inline]] inline int64_t dot_blocks(const uint8_t** b, int lane, int64_t n, XBlock* x,
                                                 typename L::Float* acc) {
  constexpr int kX = Format::kX == XKind::kFloat ? 4 : Format::kX == XKind::kBf16 ? 2 : 1;
  int64_t col = 0;
  for (; col + Format::kCols <= n; col += Format::kCols, *b += Format::kBytes) {
    if constexpr (Format::kCols < 256) fetch_ahead<T, Format::kBytes>(*b, lane, 0, 1);
    Format::template dot<T>(*b, lane, x, acc);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      x[t].q += Format::kCols * kX;
      if constexpr (Format::kX == XKind::kQ8) {
        x[t].d += 4;
        x[t].sums += 4;
      } else if constexpr (Format::kX == XKind::kQ8K) {
        x[t].d += 4;
        x[t].sums += 16;
        x[t].fine += 32;
      }
    }
  }
  return col;
}

// Single: what is left of float formats at the end; the same as Format for the others.
template <class L, class Format, class Single, int T>
void dot_packed_tokens(const PackedArgs& a) {
  for (int lane = 0; lane < 16; lane += L::kLanes) {
    XBlock x[T];
    typename L::Float acc[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      x[t] = x_block_at(Format::kX, a.x[t], a.cols, a.first_col);
      acc[t] = L::load(a.out + t * a.out_stride + lane);
    }
    const uint8_t* b = a.group;
    const int64_t done = dot_blocks<L, Format, T>(&b, lane, a.n_cols, x, acc);
    if constexpr (Format::kCols != Single::kCols) {
      // An odd column of f16 and bf16 stands in a line of its own.
      const int64_t left = (a.n_cols - done + Single::kCols - 1) / Single::kCols * Single::kCols;
      dot_blocks<L, Single, T>(&b, lane, left, x, acc);
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) L::store(a.out + t * a.out_stride + lane, acc[t]);
  }
}

template <class L, class Format, class Single = Format, int T = L::kMaxTokens>
void dot_packed_format(const PackedArgs& args, int64_t n_tokens) {
  if (n_tokens == T) return dot_packed_tokens<L, Format, Single, T>(args);
  if constexpr (T > 1) dot_packed_format<L, Format, Single, T - 1>(args, n_tokens);
}

template <class L>
void dot_packed_on(DType type, const std::byte* group, int64_t cols, int64_t first_col,
                   int64_t n_cols, const std::byte* const* x, int64_t n_tokens, float* out,
                   int64_t out_stride) {
  const PackedArgs args{
      reinterpret_cast<const uint8_t*>(group), cols, first_col, n_cols, x, out, out_stride};
  switch (type) {
    case DType::kF32:
      return dot_packed_format<L, PackedF32<L, 8>, PackedF32<L, 1>>(args, n_tokens);
    case DType::kF16:
      return dot_packed_format<L, PackedF16<L, 8>, PackedF16<L, 1>>(args, n_tokens);
    case DType::kBF16:
      return dot_packed_format<L, PackedBf16<L, 8>, PackedBf16<L, 1>>(args, n_tokens);
    case DType::kQ4_0:
      return dot_packed_format<L, PackedQ40<L>>(args, n_tokens);
    case DType::kQ5_0:
      return dot_packed_format<L, PackedQ50<L>>(args, n_tokens);
    case DType::kQ8_0:
      return dot_packed_format<L, PackedQ80<L>>(args, n_tokens);
    case DType::kQ4_K:
      return dot_packed_format<L, PackedQ4K<L>>(args, n_tokens);
    case DType::kQ5_K:
      return dot_packed_format<L, PackedQ5K<L>>(args, n_tokens);
    case DType::kQ6_K:
      return dot_packed_format<L, PackedQ6K<L>>(args, n_tokens);
  }
}

}  // namespace
}  // namespace tandem
