// What the dot products of simd_packed.h are made of: loops that are unrolled in time, and how a
// loop over blocks reads weights and activations. Included by the files that are compiled for one
// instruction set only, so everything here has internal linkage.
//
// Code is written over Lanes, a vector of rows; another instruction set (NEON) is one more such
// struct. It has kLanes rows (16 or a divisor), registers for kTokens tokens (or kFloatGroups
// groups times kFloatTokens tokens of a float format), and these operations. Int: a dword in each
// lane, four bytes or two words of consecutive columns. Float: an f32 in each lane.
//
//   line(p)                 kLanes dwords
//   bcast(p)                one dword in every lane; bcast_float(p): one f32
//   load(p), store(p, v)    kLanes f32
//   and_bits, or_bits       on dwords, as are shl, shr (logical) and sar
//   pick(a, m, b, n)        (a & m) | (b & n)
//   fifth_bits(v, k)        16 in byte i where bit 4 k + i is set, else 0
//   even_bytes_s16(v)       bytes 0 and 2 as signed words; odd_bytes_s16: 1 and 3
//   dot_u8(acc, w, x)       acc + four products of unsigned w and signed x
//   dot_s8(acc, w, x)       with signed w, in the form that weights_s8(line) gives, from a sum that
//                           is start_s8(minus the sum of all x that follow)
//   dot_i16, dot_bf16       two products of signed words, or of bf16
//   half_of(v)              the low word as f16; halves(p): kLanes f16
//   to_float, as_float      of int32; the bits
//   mul, fma, fnma          fma(a, b, c): a b + c; fnma(a, b, c): c - a b
// kAhead and kAheadToL2 say how many bytes ahead weights are asked for, and to which cache;
// kWholeSums, whether K-quants are summed in integers (simd_formats_k.h), for which
//   add, sub, mul_int       of int32
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int kLineBytes = 64;

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

// The same block of G groups, `stride` bytes apart.
struct Block {
  const uint8_t* at;
  int64_t stride;
  const uint8_t* end;  // of the first group's blocks,
  int64_t jump;        // and from there to what is read next
  bool fetches;        // one of the lanes' passes does

  // Asks for what stands kFar behind line `line` of the block, to the L1 cache, or to the L2 cache:
  // that leaves more misses in flight, which loops need that do little else than read. The loop
  // would wait for memory otherwise: hardware fetches too little ahead. A line with each line of
  // weights: more at once would be more than a core's miss buffers hold.
  template <int G, int64_t kFar, bool kToL2>
  [[gnu::always_inline]] void fetch_ahead(int line) const {
    if (!fetches) return;
    const uint8_t* target = at + kFar + line * kLineBytes;
    target += target >= end ? jump : 0;
    unrolled<G>([&](auto g) __attribute__((always_inline)) {
      __builtin_prefetch(target + g * stride, 0, kToL2 ? 2 : 3);
    });
  }
  // The same for the lines of part `part` of kParts, one for each k from 0 on. In order, each once:
  // hardware that follows streams is led astray otherwise.
  template <int G, int kBytes, int kParts, int64_t kFar, bool kToL2>
  [[gnu::always_inline]] void fetch_part(int part, int k) const {
    constexpr int kLines = (kBytes + kLineBytes - 1) / kLineBytes;
    if constexpr (kLines % kParts == 0) {  // known for each k: no branch a line
      constexpr int kEach = kLines / kParts;
      if (k < kEach) fetch_ahead<G, kFar, kToL2>(part * kEach + k);
      return;
    }
    const int line = part * kLines / kParts + k;
    if (line < (part + 1) * kLines / kParts) fetch_ahead<G, kFar, kToL2>(line);
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

}  // namespace
}  // namespace tandem
