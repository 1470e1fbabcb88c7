// BF16 in tiles (AMX): packed lines are what the matrix unit reads. Internal linkage, as
// simd_lanes.h.
#pragma once

#include "kernels/simd_amx_tiles.h"
#include "kernels/simd_packed.h"

namespace tandem {
namespace {

constexpr int kColsOfLine = 2;
constexpr int kStepCols = kTileRows * kColsOfLine;  // of a tile of weights
constexpr int kSteps = 8;                           // at a time

// Some columns of two groups.
struct StepsOfGroups {
  const uint8_t* lines[2][kSteps];
  Block block[2];
};

// Sums of two groups, two tiles of tokens each, or of one.
template <bool kTwoGroups, bool kTwoTiles>
[[gnu::always_inline]] inline void dot_steps(const TokenRows& tokens, int64_t tile, int steps,
                                             const StepsOfGroups& w) {
  const TokenRows::Tile x0 = tokens.tile(tile);
  const TokenRows::Tile x1 = kTwoTiles ? tokens.tile(tile + 1) : x0;
  for (int k = 0; k < steps; ++k) {
    if (tile == 0) {
      unrolled<kTileRows>([&](auto line) __attribute__((always_inline)) {
        w.block[0].fetch_ahead<1, kAhead, true>(k * kTileRows + line);
        if constexpr (kTwoGroups) w.block[1].fetch_ahead<1, kAhead, true>(k * kTileRows + line);
      });
    }
    tile_load<4>(x0.at + k * x0.step, x0.stride);
    tile_load<6>(w.lines[0][k], kLineBytes);
    tile_dot_bf16<0, 4, 6>();
    if constexpr (kTwoTiles) {
      tile_load<5>(x1.at + k * x1.step, x1.stride);
      tile_dot_bf16<1, 5, 6>();
    }
    if constexpr (kTwoGroups) {
      tile_load<7>(w.lines[1][k], kLineBytes);
      tile_dot_bf16<2, 4, 7>();
      if constexpr (kTwoTiles) tile_dot_bf16<3, 5, 7>();
    }
  }
}

// Loads or stores sums, `out` being those of the tile's first token. Of a tile that repeats tokens,
// the first `skip` rows are the sums of the tile before, and stay as they are.
template <int kTile>
[[gnu::always_inline]] inline void load_sums(const float* out, int64_t stride, int64_t skip,
                                             int64_t rows, float* room) {
  if (skip == 0) return tile_load<kTile>(out, stride * 4);
  for (int64_t r = skip; r < rows; ++r) {
    _mm512_store_ps(room + r * 16, _mm512_loadu_ps(out + r * stride));
  }
  tile_load<kTile>(room, kTileRowBytes);
}
template <int kTile>
[[gnu::always_inline]] inline void store_sums(float* out, int64_t stride, int64_t skip,
                                              int64_t rows, float* room) {
  if (skip == 0) return tile_store<kTile>(out, stride * 4);
  tile_store<kTile>(room, kTileRowBytes);
  for (int64_t r = skip; r < rows; ++r) {
    _mm512_storeu_ps(out + r * stride, _mm512_load_ps(room + r * 16));
  }
}

template <bool kTwoGroups, bool kTwoTiles>
void dot_two_by_two(const PackedArgs& a, const TokenRows& tokens, int64_t tile, int64_t g,
                    int steps, const StepsOfGroups& w) {
  alignas(64) float room[kTileRows * 16] = {};
  const int64_t rows = tokens.rows();
  const auto out = [&](int64_t i_group, int64_t i) __attribute__((always_inline)) {
    return a.out + tokens.first(tile + i) * a.out_stride + (g + i_group) * 16;
  };
  // Only the last tile repeats.
  const int64_t last = tile + (kTwoTiles ? 1 : 0);
  const int64_t skip = last * rows - tokens.first(last);
  const int64_t skip0 = kTwoTiles ? 0 : skip;
  load_sums<0>(out(0, 0), a.out_stride, skip0, rows, room);
  if constexpr (kTwoTiles) load_sums<1>(out(0, 1), a.out_stride, skip, rows, room);
  if constexpr (kTwoGroups) load_sums<2>(out(1, 0), a.out_stride, skip0, rows, room);
  if constexpr (kTwoGroups && kTwoTiles) load_sums<3>(out(1, 1), a.out_stride, skip, rows, room);
  dot_steps<kTwoGroups, kTwoTiles>(tokens, tile, steps, w);
  store_sums<0>(out(0, 0), a.out_stride, skip0, rows, room);
  if constexpr (kTwoTiles) store_sums<1>(out(0, 1), a.out_stride, skip, rows, room);
  if constexpr (kTwoGroups) store_sums<2>(out(1, 0), a.out_stride, skip0, rows, room);
  if constexpr (kTwoGroups && kTwoTiles) store_sums<3>(out(1, 1), a.out_stride, skip, rows, room);
}

void dot_bf16_in_tiles(const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  constexpr int kCols = kSteps * kStepCols;
  alignas(64) uint8_t room[kMostTileTokens * kCols * 2];
  alignas(64) uint8_t tails[2][kTileBytes] = {};
  TokenRows tokens(a.x, n_tokens);
  const TileScope scope(tokens.rows(), kTileRowBytes);
  for (int64_t col = 0; col < a.n_cols; col += kCols) {
    const int64_t width = min_of(kCols, a.n_cols - col);
    const int64_t lines = (width + 1) / kColsOfLine;
    const int64_t tail = lines % kTileRows;
    const int steps = static_cast<int>((lines + kTileRows - 1) / kTileRows);
    tokens.look_at<kCols * 2>((a.first_col + col) * 2, lines * 4, room);
    for (int64_t g = 0; g < n_groups; g += 2) {
      const int groups = g + 1 < n_groups ? 2 : 1;
      StepsOfGroups w;
      for (int i = 0; i < groups; ++i) {
        w.block[i] = a.block_of(g + i, col, kColsOfLine, kLineBytes);
        for (int k = 0; k < steps; ++k) w.lines[i][k] = w.block[i].at + k * kTileBytes;
        if (tail == 0) continue;
        __builtin_memcpy(tails[i], w.lines[i][steps - 1], static_cast<size_t>(tail * kLineBytes));
        w.lines[i][steps - 1] = tails[i];
      }
      for (int64_t tile = 0; tile < tokens.tiles(); tile += 2) {
        const bool two_tiles = tile + 1 < tokens.tiles();
        if (groups == 2) {
          two_tiles ? dot_two_by_two<true, true>(a, tokens, tile, g, steps, w)
                    : dot_two_by_two<true, false>(a, tokens, tile, g, steps, w);
        } else {
          two_tiles ? dot_two_by_two<false, true>(a, tokens, tile, g, steps, w)
                    : dot_two_by_two<false, false>(a, tokens, tile, g, steps, w);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem
