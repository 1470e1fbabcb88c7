// Products with many tokens: a block of threads for 64 rows of W, a group a warp, by up to 64
// tokens. Weights are read by one warp, from memory into fragments. What all warps read, the
// tokens' rows, comes through shared memory, 256 bytes of each at a time, while they compute with
// the 256 before.
#pragma once

#include "kernels/gpu/packed_product.h"

namespace VGPU_NAMESPACE {

inline constexpr int kMostTiles = 8;
inline constexpr int kTileTokens = 8 * kMostTiles;
inline constexpr int kChunkBytes = 256;
// Scales and sums stand behind. Eight rows' fragments are in different banks of shared memory.
inline constexpr int kChunkStride = 304;

struct TokenChunks {
  uint8_t rows[2][8 * kMostTiles][kChunkStride];
  int offsets[8 * kMostTiles];  // of tokens' rows in memory
};

// What TokenTiles is for rows in memory: a chunk is a packed row of its own.
template <int kTokenTiles>
struct ChunkTiles {
  static constexpr int kTiles = kTokenTiles;
  const uint8_t* own_row;
  const uint8_t* pair_row;
  VGPU_DEVICE explicit ChunkTiles(const uint8_t (*rows)[kChunkStride]) {
    const Lane lane;
    own_row = rows[lane.g];
    pair_row = rows[2 * lane.t];
  }
  VGPU_DEVICE const uint8_t* own(int j) const { return own_row + 8 * j * kChunkStride; }
  VGPU_DEVICE const uint8_t* pair(int j, int i) const {
    return pair_row + (8 * j + i) * kChunkStride;
  }
};

// Chunk `chunk` of each of the 8 * kTiles rows at `offsets`, by all threads; as one group of
// copies.
template <XKind kKind, int kTiles>
VGPU_DEVICE void copy_chunk(const PackedX& x, const int* offsets, int chunk,
                            uint8_t (*to)[kChunkStride]) {
  constexpr int kPieces = kChunkBytes / 16;
  const int values = kKind == XKind::kBf16 ? 2 * x.cols : x.cols;
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kTiles * kPieces; i += kProductThreads) {
    const int at = chunk * kChunkBytes + i % kPieces * 16;
    if (at >= values) continue;
    uint8_t* piece = to[i / kPieces] + i % kPieces * 16;
    copy_async16(piece, x.rows + offsets[i / kPieces] + at, 16);
  }
  if constexpr (kKind != XKind::kBf16) {
    constexpr int kDwords = 8;  // kQ8: scales; kQ8K: a scale, and four of two sums each
    for (int i = static_cast<int>(threadIdx.x); i < 8 * kTiles * kDwords; i += kProductThreads) {
      const int k = i % kDwords;
      int at = 0;
      if constexpr (kKind == XKind::kQ8) {
        if (chunk * kDwords + k >= x.cols / 32) continue;
        at = x.cols + (chunk * kDwords + k) * 4;
      } else {
        if (k > 4) continue;
        at = x.cols + (k == 0 ? chunk * 4 : x.cols / 256 * 4 + chunk * 16 + (k - 1) * 4);
      }
      uint8_t* row = to[i / kDwords];
      copy_async4(row + kChunkBytes + 4 * k, x.rows + offsets[i / kDwords] + at);
    }
  }
  commit_copies();
}

// acc += a group's chunk by the tokens'. cols: of the weights, of which `blocks` is a group.
template <DType kType, int kTiles>
VGPU_DEVICE void add_chunk(const uint8_t* blocks, int cols, int chunk, const ChunkTiles<kTiles>& x,
                           float (&acc)[kTiles][4]) {
  using F = Format<kType>;
  constexpr bool kBf16 = kXKind<kType> == XKind::kBf16;
  constexpr int kChunkCols = kBf16 ? kChunkBytes / 2 : kChunkBytes;
  const int first = chunk * kChunkCols;
  const int left = cols - first < kChunkCols ? cols - first : kChunkCols;
  for (int col = 0; col < left; col += F::kCols) {
    const uint8_t* block = blocks + static_cast<int64_t>((first + col) / F::kCols) * F::kBytes;
    F::add(block, x, kBf16 ? left : kChunkCols, col, acc);
  }
}

// The groups of rows that a warp multiplies; of as many columns. nullptr: nothing.
template <int kMatrices>
struct WarpGroups {
  const uint8_t* blocks[kMatrices];
  int cols;
};

// acc[m] = group m by tokens `first` … of x, as fragments C. All threads of a block; a block whose
// warps' columns differ would wait for ever: cols are of all.
template <DType kType, int kTiles, int kMatrices>
VGPU_DEVICE void tile_product(const WarpGroups<kMatrices>& w, const PackedX& x,
                              const TokenList& tokens, int first, TokenChunks* shared,
                              float (&acc)[kMatrices][kTiles][4]) {
  constexpr XKind kKind = kXKind<kType>;
  constexpr int kChunkCols = kKind == XKind::kBf16 ? kChunkBytes / 2 : kChunkBytes;
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kTiles; i += kProductThreads) {
    const int token = first + i < tokens.n ? first + i : tokens.n - 1;
    shared->offsets[i] = (tokens.rows != nullptr ? tokens.rows[token] : token) * x.stride;
  }
  __syncthreads();
  const int n_chunks = (w.cols + kChunkCols - 1) / kChunkCols;
  copy_chunk<kKind, kTiles>(x, shared->offsets, 0, shared->rows[0]);
  for (int c = 0; c < n_chunks; ++c) {
    wait_copies<0>();
    __syncthreads();  // chunk c is there for all, and nobody reads chunk c - 1 any more
    if (c + 1 < n_chunks) {
      copy_chunk<kKind, kTiles>(x, shared->offsets, c + 1, shared->rows[(c + 1) % 2]);
    }
    const ChunkTiles<kTiles> chunk(shared->rows[c % 2]);
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      if (w.blocks[m] != nullptr) add_chunk<kType>(w.blocks[m], w.cols, c, chunk, acc[m]);
    }
  }
}

// f(std::integral_constant<int, tiles>) with as many tiles of eight as `left` tokens need.
template <typename F>
VGPU_DEVICE void with_tiles(int left, const F& f) {
  if (left > 32) return f(std::integral_constant<int, 8>{});
  if (left > 16) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 2>{});
}

// f(i, row of a group, token) for each of a lane's values acc[i / 4][i % 4].
template <int kTiles, typename F>
VGPU_DEVICE void for_fragment(const F& f) {
  const Lane lane;
#pragma unroll
  for (int i = 0; i < 4 * kTiles; ++i) {
    f(i, lane.g + i / 2 % 2 * 8, i / 4 * 8 + 2 * lane.t + i % 2);
  }
}

}  // namespace VGPU_NAMESPACE
