// Q4_0, Q5_0 and Q8_0 in tiles (AMX): a block of 32 columns is a product of integers, half a tile
// deep, and vectors scale and add what comes out. Internal linkage, as simd_lanes.h.
#pragma once

#include "kernels/simd_amx_tiles.h"
#include "kernels/simd_avx512_lanes.h"
#include "kernels/simd_packed.h"

namespace tandem {
namespace {

constexpr int kBlockCols = 32;
constexpr int kBlockLines = kBlockCols / 4;
constexpr int kBlockBytes = kBlockLines * kLineBytes;
constexpr int kBlocksAtOnce = 8;

// Blocks of 16 rows: weights as tiles take them, and their scales.
struct Blocks {
  alignas(64) uint8_t weights[kBlocksAtOnce * kBlockBytes];
  __m512 d[kBlocksAtOnce];
};

// Sums of a tile of tokens with each block.
struct BlockSums {
  alignas(64) int32_t of[kBlocksAtOnce][kTileBytes / 4];
};

// A tile is stored while the next block's is computed.
[[gnu::noinline]] void dot_blocks_of_tile(const TokenRows::Tile& x, const Blocks& w, int64_t blocks,
                                          BlockSums* to) {
  const auto dot = [&](int64_t b, auto tile) __attribute__((always_inline)) {
    tile_load<4>(x.at + b / 2 * x.step + b % 2 * kBlockCols, x.stride);
    tile_load<6>(w.weights + b * kBlockBytes, kLineBytes);
    tile_zero<tile>();
    tile_dot_s8<tile, 4, 6>();
  };
  using Even = std::integral_constant<int, 0>;
  using Odd = std::integral_constant<int, 1>;
  dot(0, Even{});
  for (int64_t b = 1; b < blocks; b += 2) {
    dot(b, Odd{});
    tile_store<0>(to->of[b - 1], kTileRowBytes);
    if (b + 1 < blocks) dot(b + 1, Even{});
    tile_store<1>(to->of[b], kTileRowBytes);
  }
  if (blocks % 2 != 0) tile_store<0>(to->of[blocks - 1], kTileRowBytes);
}

// out[t] += sum_b sums[b][row + t] * (d[b] * x_d[t][b]), t in [0, n): as Packed32::dot() has it.
[[gnu::noinline]] void add_blocks(const BlockSums& sums, int64_t row, const Blocks& w,
                                  int64_t blocks, const std::byte* const* x, int64_t d_at,
                                  int64_t n, float* out, int64_t out_stride) {
  const int32_t* from = sums.of[0] + row * 16;
  __m512 d[kBlocksAtOnce];  // in registers: stores to `out` could change w
  for (int b = 0; b < kBlocksAtOnce; ++b) d[b] = w.d[b];
  for (int64_t t = 0; t < n; ++t, from += 16, out += out_stride) {
    const auto* x_d = reinterpret_cast<const uint8_t*>(x[t]) + d_at;
    __m512 acc = _mm512_loadu_ps(out);
    const auto add = [&](int64_t b) __attribute__((always_inline)) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(from + b * (kTileBytes / 4)));
      const __m512 scale = _mm512_mul_ps(d[b], AmxLanes::bcast_float(x_d + b * 4));
      acc = _mm512_fmadd_ps(sum, scale, acc);
    };
    if (blocks == kBlocksAtOnce) {
      unrolled<kBlocksAtOnce>(add);
    } else {
      for (int64_t b = 0; b < blocks; ++b) add(b);
    }
    _mm512_storeu_ps(out, acc);
  }
}

// Weights: as Packed32 has it (simd_formats.h); kOffset: how much too high unpack() makes them.
template <class Weights, int kOffset>
void dot_q8_in_tiles(const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  using Format = Packed32<AmxLanes, Weights>;
  constexpr int kCols = kBlocksAtOnce * kBlockCols;
  alignas(64) uint8_t room[kMostTileTokens * kCols];
  Blocks w;
  BlockSums sums;
  TokenRows tokens(a.x, n_tokens);
  const TileScope scope(tokens.rows(), kBlockCols);
  for (int64_t col = 0; col < a.n_cols; col += kCols) {
    const int64_t width = min_of(kCols, a.n_cols - col);
    const int64_t blocks = width / kBlockCols;
    tokens.look_at<kCols>(a.first_col + col, width, room);
    const XBlock x0 = x_block_at(XKind::kQ8, a.x[0], a.cols, a.first_col + col);
    const int64_t d_at = x0.d - reinterpret_cast<const uint8_t*>(a.x[0]);
    for (int64_t g = 0; g < n_groups; ++g) {
      Block block = a.block_of(g, col, kBlockCols, Format::kBytes);
      for (int64_t b = 0; b < blocks; ++b, block.at += Format::kBytes) {
        unrolled<kBlockLines>([&](auto k) __attribute__((always_inline)) {
          block.fetch_part<1, Format::kBytes, 1, AmxLanes::kAhead, AmxLanes::kAheadToL2>(0, k);
          if (k == kBlockLines - 1)
            block.fetch_part<1, Format::kBytes, 1, AmxLanes::kAhead, AmxLanes::kAheadToL2>(
                0, kBlockLines);
          const __m512i line = Weights::unpack(block.at + 32, k);
          const __m512i offset = _mm512_set1_epi8(static_cast<char>(kOffset));
          _mm512_store_si512(w.weights + b * kBlockBytes + k * kLineBytes,
                             _mm512_sub_epi8(line, offset));
        });
        w.d[b] = AmxLanes::halves(block.at);
      }
      for (int64_t tile = 0; tile < tokens.tiles(); ++tile) {
        const int64_t first = tile * tokens.rows();
        dot_blocks_of_tile(tokens.tile(tile), w, blocks, &sums);
        add_blocks(sums, first - tokens.first(tile), w, blocks, a.x + first, d_at,
                   min_of(tokens.rows(), n_tokens - first), a.out + first * a.out_stride + g * 16,
                   a.out_stride);
      }
    }
  }
}

void dot_q8(DType type, const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  if (type == DType::kQ4_0) {
    return dot_q8_in_tiles<WeightsQ40<AmxLanes>, 8>(a, n_groups, n_tokens);
  }
  if (type == DType::kQ5_0) {
    return dot_q8_in_tiles<WeightsQ50<AmxLanes>, 16>(a, n_groups, n_tokens);
  }
  dot_q8_in_tiles<WeightsQ80<AmxLanes>, 128>(a, n_groups, n_tokens);
}

}  // namespace
}  // namespace tandem
