// Dot products of packed groups (packed.h) with packed activations, written once for all
// instruction sets: chooses format and numbers of groups and tokens, and loops over blocks.
// Internal linkage, as simd_lanes.h. A group is done kLanes rows at a time.
#pragma once

#include "kernels/simd_formats.h"
#include "kernels/simd_formats_q6k.h"

namespace tandem {
namespace {

struct PackedArgs {
  const uint8_t* group;
  int64_t group_stride;
  Ahead ahead;
  int64_t cols;
  int64_t first_col;
  int64_t n_cols;
  const std::byte* const* x;
  float* out;
  int64_t out_stride;

  // Group g alone, from column `col` on; what is read after it are the same columns of the next.
  Block block_of(int64_t g, int64_t col, int block_cols, int block_bytes) const {
    const uint8_t* first = group + g * group_stride;
    const uint8_t* end = first + bytes(block_cols, block_bytes);
    return {first + col / block_cols * block_bytes, 0, end, after() + g * group_stride - end, true};
  }
  // Of a group, the columns at hand.
  int64_t bytes(int block_cols, int block_bytes) const {
    return (n_cols + block_cols - 1) / block_cols * block_bytes;
  }
  // What is read after this call.
  const uint8_t* after() const { return ahead.pass + 1 < ahead.passes ? group : next(); }
  const uint8_t* next() const { return reinterpret_cast<const uint8_t*>(ahead.next); }
};

// What is read after all passes over the groups at hand is fetched to the L2 cache, a part with
// each pass, a little with each block: where many tokens share weights, memory rests while they
// are multiplied, and the first pass would wait for all of them. A power of two of passes do it.
struct Later {
  const uint8_t* group;  // at hand
  const uint8_t* at;     // this pass' part; nullptr: none
  int shift;             // that many bytes of the group for one of the part

  template <int G>
  [[gnu::always_inline]] void fetch(const Block& block, int block_bytes) const {
    if (at == nullptr) return;
    const int64_t done = block.at - group;
    for (int64_t b = done >> shift; b < (done + block_bytes) >> shift; b += kLineBytes) {
      unrolled<G>([&](auto g) __attribute__((always_inline)) {
        __builtin_prefetch(at + b + g * block.stride, 0, 2);
      });
    }
  }
};

inline Later later_of(const PackedArgs& a, int64_t bytes, bool fetches) {
  int shift = 0;
  while (int64_t{2} << shift <= a.ahead.passes) ++shift;
  if (!fetches || shift == 0 || a.ahead.pass >> shift != 0) return {a.group, nullptr, 0};
  return {a.group, a.next() + (bytes * a.ahead.pass >> shift), shift};
}

// The blocks of Format from `block` on, as many as there are in n columns; returns those done.
template <class L, class Format, int G, int T>
[[gnu::always_inline]] inline int64_t dot_blocks(Block* block, const Later& later, int lane,
                                                 int64_t n, XBlock* x,
                                                 typename L::Float (&acc)[G][T]) {
  constexpr int kX = Format::kX == XKind::kFloat ? 4 : Format::kX == XKind::kBf16 ? 2 : 1;
  int64_t col = 0;
  for (; col + Format::kCols <= n; col += Format::kCols, block->at += Format::kBytes) {
    if constexpr (T > 1) later.template fetch<G>(*block, Format::kBytes);
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
    const int64_t bytes = a.bytes(Single::kCols, Single::kBytes);
    const uint8_t* end = a.group + bytes;
    Block block{a.group, a.group_stride, end, a.after() - end, lane == 0};
    const Later later = later_of(a, bytes, block.fetches);
    const int64_t done = dot_blocks<L, Format, G, T>(&block, later, lane, a.n_cols, x, acc);
    if constexpr (Format::kCols != Single::kCols) {
      const int64_t left = a.n_cols - done;
      const int64_t odd = left - dot_blocks<L, Single, G, T>(&block, later, lane, left, x, acc);
      if (odd > 0) dot_blocks<L, Last, G, T>(&block, later, lane, Last::kCols, x, acc);
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
void dot_packed_type(DType type, const PackedArgs& args, int64_t n_groups, int64_t n_tokens) {
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

PackedArgs packed_args(const std::byte* group, int64_t group_stride, const Ahead& ahead,
                       int64_t cols, int64_t first_col, int64_t n_cols, const std::byte* const* x,
                       float* out, int64_t out_stride) {
  return {reinterpret_cast<const uint8_t*>(group),
          group_stride,
          ahead,
          cols,
          first_col,
          n_cols,
          x,
          out,
          out_stride};
}

template <class L>
void dot_packed_on(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                   const Ahead& ahead, int64_t cols, int64_t first_col, int64_t n_cols,
                   const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride) {
  dot_packed_type<L>(
      type, packed_args(group, group_stride, ahead, cols, first_col, n_cols, x, out, out_stride),
      n_groups, n_tokens);
}

template <class L>
void dot_int8_on(const std::byte* groups, int64_t group_bytes, const std::byte* next, int64_t n,
                 const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride) {
  constexpr DotTile kTile = tile_on<L>(XKind::kFloat);
  constexpr int kGroups = 2;
  const int64_t shares = (n_tokens + kTile.tokens - 1) / kTile.tokens;
  for (int64_t i = 0; i < shares; ++i) {
    const int64_t first = n_tokens * i / shares;
    const int64_t some = n_tokens * (i + 1) / shares - first;
    for (int64_t g = 0; g < kGroups; g += kTile.groups) {
      const PackedArgs args =
          packed_args(groups + g * group_bytes, group_bytes, {next + g * group_bytes, 0, 1}, n, 0,
                      n, x + first, out + first * out_stride + g * 16, out_stride);
      dot_packed_format<L, PackedInt8<L, 4>, PackedInt8<L, 1>>(args, kTile.groups, some);
    }
  }
}

}  // namespace
}  // namespace tandem
