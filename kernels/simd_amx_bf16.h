// BF16 in tiles (AMX): packed lines are what the matrix unit reads. With few tokens, where reading
// takes the time, vectors do what it does. Internal linkage, as simd_lanes.h.
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
        w.block[0].fetch_ahead<1, AmxLanes::kAhead, AmxLanes::kAheadToL2>(k * kTileRows + line);
        if constexpr (kTwoGroups)
          w.block[1].fetch_ahead<1, AmxLanes::kAhead, AmxLanes::kAheadToL2>(k * kTileRows + line);
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

// Denormals are zeros while one lives, as they are in tiles.
class NoDenormals {
 public:
  NoDenormals() { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  unsigned before_ = _mm_getcsr();
};

// What tdpbf16ps does with a tile of weights, to the bit: even columns are summed apart from odd
// ones, each product with one rounding, then both are added, and that to the sum.
template <int G>
void dot_bf16_in_vectors(const PackedArgs& a, int64_t g) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  const int64_t lines = (a.n_cols + 1) / kColsOfLine;
  Block block = a.block_of(g, 0, kColsOfLine, kLineBytes);
  block.stride = a.group_stride;
  float* const out = a.out + g * 16;
  const std::byte* from = a.x[0] + a.first_col * 2;
  __m512 sum[G];
  unrolled<G>([&](auto i)
                  __attribute__((always_inline)) { sum[i] = _mm512_loadu_ps(out + i * 16); });
  for (int64_t line = 0; line < lines; line += kTileRows, from += kTileRowBytes) {
    const int64_t some = min_of(kTileRows, lines - line);
    const __mmask16 mask = static_cast<__mmask16>((1U << some) - 1);
    alignas(64) float x[2][kTileRows];
    const __m512i pairs = _mm512_maskz_loadu_epi32(mask, from);
    _mm512_store_si512(x[0], _mm512_slli_epi32(pairs, 16));
    _mm512_store_si512(x[1], _mm512_and_si512(pairs, high));
    __m512 even[G];
    __m512 odd[G];
    unrolled<G>([&](auto i) __attribute__((always_inline)) {
      even[i] = _mm512_setzero_ps();
      odd[i] = _mm512_setzero_ps();
    });
    const auto add = [&](int64_t k) __attribute__((always_inline)) {
      block.fetch_ahead<G, AmxLanes::kAhead, AmxLanes::kAheadToL2>(static_cast<int>(k));
      unrolled<G>([&](auto i) __attribute__((always_inline)) {
        const __m512i w = _mm512_loadu_si512(block.at + i * block.stride + k * kLineBytes);
        const __m512 w_even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
        const __m512 w_odd = _mm512_castsi512_ps(_mm512_and_si512(w, high));
        even[i] = _mm512_fmadd_ps(w_even, _mm512_set1_ps(x[0][k]), even[i]);
        odd[i] = _mm512_fmadd_ps(w_odd, _mm512_set1_ps(x[1][k]), odd[i]);
      });
    };
    if (some == kTileRows) {
      unrolled<kTileRows>(add);
    } else {
      for (int64_t k = 0; k < some; ++k) add(k);
    }
    block.at += some * kLineBytes;
    unrolled<G>([&](auto i) __attribute__((always_inline)) {
      sum[i] = _mm512_add_ps(sum[i], _mm512_add_ps(even[i], odd[i]));
    });
  }
  unrolled<G>([&](auto i)
                  __attribute__((always_inline)) { _mm512_storeu_ps(out + i * 16, sum[i]); });
}

void dot_bf16(const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  if (n_tokens > 1) return dot_bf16_in_tiles(a, n_groups, n_tokens);
  const NoDenormals scope;
  int64_t g = 0;
  for (; g + 2 <= n_groups; g += 2) dot_bf16_in_vectors<2>(a, g);
  if (g < n_groups) dot_bf16_in_vectors<1>(a, g);
}

}  // namespace
}  // namespace tandem
