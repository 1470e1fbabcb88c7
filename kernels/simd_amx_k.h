// K-quants in tiles (AMX). A block of 256 columns is one product of integers: weights times the
// scales of their sub-blocks, cut into two planes of bytes. Internal linkage, as simd_lanes.h.
#pragma once

#include "kernels/simd_amx_tiles.h"
#include "kernels/simd_avx512_lanes.h"
#include "kernels/simd_packed.h"

namespace tandem {
namespace {

using AmxInt = AmxLanes::Int;
using AmxFloat = AmxLanes::Float;

constexpr int kPlaneTiles = 256 / kTileRowBytes;

// What a block is multiplied with: weights are low + (high << kHighShift), and the minimums of
// formats that have some.
struct Planes {
  alignas(64) uint8_t low[kPlaneTiles * kTileBytes];
  alignas(64) uint8_t high[kPlaneTiles * kTileBytes];
  alignas(64) uint8_t mins[kTileBytes];
};

// Sums of two tiles of tokens.
struct PlaneSums {
  alignas(64) int32_t low[2][kTileBytes / 4];
  alignas(64) int32_t high[2][kTileBytes / 4];
  alignas(64) float mins[2][kTileBytes / 4];
};

// Q4_K and Q5_K. A scale has six bits, three for each plane: their products with weights of five
// bits are bytes, and the bytes of a word are multiplied at once.
//
// Minimums are bf16, and exact: six bits times an int16 sum of x, which is 32 times an integer of
// eight bits, and five bits.
template <class F>
struct TilesK {
  using Format = F;
  static constexpr int kHighShift = 3;
  static constexpr bool kMins = true;
  AmxFloat d;
  AmxFloat dmin;

  [[gnu::noinline]] void unpack(const Block& block, Planes* to) {
    HeadK<AmxLanes> head;
    head.read(block.at, 0);
    d = head.d;
    dmin = head.dmin;
    unrolled<8>([&](auto s) __attribute__((always_inline)) {
      const AmxInt scale = head.scale[s];
      const AmxInt low = in_both_words(_mm512_and_si512(scale, _mm512_set1_epi32(7)));
      const AmxInt high = in_both_words(_mm512_srli_epi32(scale, 3));
      unrolled<8>([&](auto k) __attribute__((always_inline)) {
        block.fetch_part<1, Format::kBytes, 8, AmxLanes::kAhead, AmxLanes::kAheadToL2>(s, k);
        const AmxInt q = Format::weights(block.at, 0, s, k);
        constexpr int kAt = (s * 8 + k) * kTileRowBytes;
        _mm512_store_si512(to->low + kAt, _mm512_mullo_epi16(q, low));
        _mm512_store_si512(to->high + kAt, _mm512_mullo_epi16(q, high));
      });
    });
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      const AmxInt pair = bf16_of(head.mins[i]);
      _mm512_store_si512(to->mins + i * kTileRowBytes, pair);
      _mm512_store_si512(to->mins + (4 + i) * kTileRowBytes, pair);
    });
  }
  template <int kSum, int kX>
  [[gnu::always_inline]] static void dot_high() {
    tile_dot_u8<kSum, kX, 7>();
  }
  // x's scale * (sum * d - dmin * minimums . x's sums) + acc, as HeadK::finish() has it.
  [[gnu::always_inline]] AmxFloat add(float x_d, AmxInt sum, const float* mins,
                                      AmxFloat acc) const {
    const AmxFloat whole =
        AmxLanes::fnma(_mm512_load_ps(mins), dmin, BlockSum<AmxLanes>::finish(sum, d));
    return AmxLanes::fma(whole, _mm512_set1_ps(x_d), acc);
  }

  // The eight sums of a token, times 32 and the rest.
  static void split_sums(const uint8_t* sums, uint8_t* to) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums));
    const __m128i rest = _mm_and_si128(all, _mm_set1_epi16(31));
    const __m128i words[2] = {_mm_sub_epi16(all, rest), rest};
    for (int i = 0; i < 2; ++i) {
      const __m256 floats = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words[i]));
      const __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(floats), 16);
      _mm_store_si128(reinterpret_cast<__m128i*>(to + i * 16), _mm256_cvtepi32_epi16(bits));
    }
  }

 private:
  [[gnu::always_inline]] static AmxInt in_both_words(AmxInt v) {
    return _mm512_or_si512(v, _mm512_slli_epi32(v, 16));
  }
  // Of small words that are not negative.
  [[gnu::always_inline]] static AmxInt bf16_of(AmxInt words) {
    const AmxInt low = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF));
    const AmxInt even = _mm512_castps_si512(_mm512_cvtepi32_ps(low));
    const AmxInt odd = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srli_epi32(words, 16)));
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
  }
};

// Q6_K: signed products of 13 bits, their low bytes and their high ones.
template <>
struct TilesK<PackedQ6K<AmxLanes>> {
  using Format = PackedQ6K<AmxLanes>;
  static constexpr int kHighShift = 8;
  static constexpr bool kMins = false;
  AmxFloat d;

  [[gnu::noinline]] void unpack(const Block& block, Planes* to) {
    TailQ6K<AmxLanes> tail;
    tail.read(block.at + 48 * kLineBytes, 0);
    d = tail.d;
    const AmxInt bytes = _mm512_set1_epi32(0x00FF00FF);
    const AmxInt offset = _mm512_set1_epi16(32);
    constexpr int kAndThenOr = 0xEC;  // (a & c) | b
    unrolled<8>([&](auto s) __attribute__((always_inline)) {
      unrolled<8>([&](auto k) __attribute__((always_inline)) {
        block.fetch_part<1, Format::kBytes, 8, AmxLanes::kAhead, AmxLanes::kAheadToL2>(s, k);
        const AmxInt s16 = tail.scale[2 * s + k / 4];
        const AmxInt scale = _mm512_or_si512(_mm512_and_si512(s16, _mm512_set1_epi32(0xFFFF)),
                                             _mm512_slli_epi32(s16, 16));
        const AmxInt q = Format::weights(block.at, 0, s, k);
        const AmxInt even =
            _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_and_si512(q, bytes), offset), scale);
        const AmxInt odd =
            _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_srli_epi16(q, 8), offset), scale);
        constexpr int kAt = (s * 8 + k) * kTileRowBytes;
        _mm512_store_si512(to->low + kAt, _mm512_ternarylogic_epi32(even, _mm512_slli_epi16(odd, 8),
                                                                    bytes, kAndThenOr));
        _mm512_store_si512(to->high + kAt,
                           _mm512_ternarylogic_epi32(odd, _mm512_srli_epi16(even, 8),
                                                     _mm512_slli_epi16(bytes, 8), kAndThenOr));
      });
    });
  }
  template <int kSum, int kX>
  [[gnu::always_inline]] static void dot_high() {
    tile_dot_s8<kSum, kX, 7>();
  }
  [[gnu::always_inline]] AmxFloat add(float x_d, AmxInt sum, const float* /*mins*/,
                                      AmxFloat acc) const {
    return AmxLanes::fma(BlockSum<AmxLanes>::finish(sum, d), _mm512_set1_ps(x_d), acc);
  }
  static void split_sums(const uint8_t* /*sums*/, uint8_t* /*to*/) {}
};

// Where the tokens of two tiles are, and the tiles of their own sums, 64 bytes a token.
struct TwoTiles {
  TokenRows::Tile x[2];
  const uint8_t* x_sums[2];
};

// Two tiles of tokens (or one) by a block. Not inlined: it needs the registers for addresses.
template <class Tiles, bool kTwo>
[[gnu::noinline]] void dot_planes(const TwoTiles& tokens, const Planes& planes, PlaneSums* to) {
  const TokenRows::Tile x0 = tokens.x[0];
  const TokenRows::Tile x1 = tokens.x[1];
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  unrolled<kPlaneTiles>([&](auto k) __attribute__((always_inline)) {
    tile_load<4>(x0.at + k * x0.step, x0.stride);
    tile_load<6, k * kTileBytes>(planes.low, kTileRowBytes);
    tile_dot_u8<0, 4, 6>();
    tile_load<7, k * kTileBytes>(planes.high, kTileRowBytes);
    Tiles::template dot_high<1, 4>();
    if constexpr (kTwo) {
      tile_load<5>(x1.at + k * x1.step, x1.stride);
      tile_dot_u8<2, 5, 6>();
      Tiles::template dot_high<3, 5>();
    }
  });
  tile_store<0>(to->low[0], kTileRowBytes);
  tile_store<1>(to->high[0], kTileRowBytes);
  if constexpr (kTwo) {
    tile_store<2>(to->low[1], kTileRowBytes);
    tile_store<3>(to->high[1], kTileRowBytes);
  }
  if constexpr (Tiles::kMins) {
    tile_load<6>(planes.mins, kTileRowBytes);
    tile_load<4>(tokens.x_sums[0], kTileRowBytes);
    tile_zero<0>();
    tile_dot_bf16<0, 4, 6>();
    tile_store<0>(to->mins[0], kTileRowBytes);
    if constexpr (kTwo) {
      tile_load<5>(tokens.x_sums[1], kTileRowBytes);
      tile_zero<1>();
      tile_dot_bf16<1, 5, 6>();
      tile_store<1>(to->mins[1], kTileRowBytes);
    }
  }
}

// out[t] += the sums of token t as the block's numbers finish them, t in [0, n).
template <class Tiles>
[[gnu::noinline]] void add_block(const Tiles& tiles, const int32_t* low, const int32_t* high,
                                 const float* mins, const std::byte* const* x, int64_t d_at,
                                 int64_t n, float* out, int64_t out_stride) {
  const Tiles block = tiles;  // in registers: the loop's stores could change what it refers to
  for (const std::byte* const* end = x + n; x != end; ++x) {
    float x_d = 0;
    __builtin_memcpy(&x_d, *x + d_at, sizeof x_d);
    const AmxInt sum = _mm512_add_epi32(
        _mm512_load_si512(low), _mm512_slli_epi32(_mm512_load_si512(high), Tiles::kHighShift));
    AmxLanes::store(out, block.add(x_d, sum, mins, AmxLanes::load(out)));
    low += 16;
    high += 16;
    mins += 16;
    out += out_stride;
  }
}

template <class Format>
void dot_k_in_tiles(const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  using Tiles = TilesK<Format>;
  alignas(64) uint8_t room[kMostTileTokens * Format::kCols];
  alignas(64) uint8_t x_sums[kMostTileTokens * kTileRowBytes];
  Planes planes;
  PlaneSums sums;
  if constexpr (Tiles::kMins) {
    __builtin_memset(x_sums, 0, sizeof x_sums);
    __builtin_memset(planes.mins, 0, sizeof planes.mins);
  }
  TokenRows tokens(a.x, n_tokens);
  const TileScope scope(tokens.rows(), kTileRowBytes);
  for (int64_t col = 0; col < a.n_cols; col += Format::kCols) {
    const int64_t x_col = a.first_col + col;
    tokens.look_at<Format::kCols>(x_col, Format::kCols, room);
    const XBlock x0 = x_block_at(XKind::kQ8K, a.x[0], a.cols, x_col);
    const auto* row0 = reinterpret_cast<const uint8_t*>(a.x[0]);
    const int64_t d_at = x0.d - row0;
    const int64_t sums_at = x0.sums - row0;
    if constexpr (Tiles::kMins) {
      for (int64_t t = 0; t < n_tokens; ++t) {
        Tiles::split_sums(reinterpret_cast<const uint8_t*>(a.x[t]) + sums_at,
                          x_sums + t * kTileRowBytes);
      }
    }
    for (int64_t g = 0; g < n_groups; ++g) {
      Tiles tiles;
      tiles.unpack(a.block_of(g, col, Format::kCols, Format::kBytes), &planes);
      const auto finish_tile = [&](int64_t tile, const int32_t* low, const int32_t* high,
                                   const float* mins) {
        const int64_t begin = tile * tokens.rows();
        const int64_t end = min_of(begin + tokens.rows(), n_tokens);
        const int64_t skip = (begin - tokens.first(tile)) * 16;
        add_block(tiles, low + skip, high + skip, mins + skip, a.x + begin, d_at, end - begin,
                  a.out + begin * a.out_stride + g * 16, a.out_stride);
      };
      for (int64_t tile = 0; tile < tokens.tiles(); tile += 2) {
        const bool two = tile + 1 < tokens.tiles();
        const int64_t second = two ? tile + 1 : tile;
        const TwoTiles at = {{tokens.tile(tile), tokens.tile(second)},
                             {x_sums + tokens.first(tile) * kTileRowBytes,
                              x_sums + tokens.first(second) * kTileRowBytes}};
        if (two) {
          dot_planes<Tiles, true>(at, planes, &sums);
          finish_tile(tile, sums.low[0], sums.high[0], sums.mins[0]);
          finish_tile(second, sums.low[1], sums.high[1], sums.mins[1]);
        } else {
          dot_planes<Tiles, false>(at, planes, &sums);
          finish_tile(tile, sums.low[0], sums.high[0], sums.mins[0]);
        }
      }
    }
  }
}

void dot_k(DType type, const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  if (type == DType::kQ4_K) return dot_k_in_tiles<PackedQ4K<AmxLanes>>(a, n_groups, n_tokens);
  if (type == DType::kQ5_K) return dot_k_in_tiles<PackedQ5K<AmxLanes>>(a, n_groups, n_tokens);
  dot_k_in_tiles<PackedQ6K<AmxLanes>>(a, n_groups, n_tokens);
}

}  // namespace
}  // namespace tandem
