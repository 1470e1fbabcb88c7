// What products in tiles are made of: the instructions, and tokens as tiles take them.
//
// The instructions are those of AMX (Intel's Architecture Instruction Set Extensions Programming
// Reference, chapter 3), as functions of constant tile numbers. Not the compiler's intrinsics:
// those of GCC 12 do not say which memory they read, so that stores before them can be dropped.
// Internal linkage, as simd_lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/simd_avx512_lanes.h"

namespace tandem {
namespace {

// Of CPUs that have tiles. K-quants are summed in integers with few tokens, too (simd_formats_k.h),
// so that a result has the same bits in vectors and in tiles. The L2 cache takes what is fetched
// ahead, and more of it: OLMoE Q4_K, one token, 3072 bytes ahead 34.0 tokens/s to the L1 cache and
// 36.8 to the L2 cache, there 38.6 from 6144 bytes and no more from 16384.
struct AmxLanes : Avx512Lanes {
  static constexpr bool kWholeSums = true;
  static constexpr int64_t kAhead = 6144;
  static constexpr bool kAheadToL2 = true;
};

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;

// What products here use of the eight tiles: 0 to 3 are sums, [tokens, 16] int32 or f32; 4 and 5
// tokens, `x_bytes` of each; 6 and 7 weights, x_bytes / 4 lines of 64 bytes.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig(int64_t tokens, int x_bytes) {
    for (int i = 0; i < 8; ++i) {
      row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? x_bytes : kTileRowBytes);
      rows[i] = static_cast<uint8_t>(i < 6 ? tokens : x_bytes / 4);
    }
  }
};

// Tiles are configured and zero while one lives, and cost a thread's switches nothing afterwards.
class TileScope {
 public:
  TileScope(int64_t tokens, int x_bytes) {
    const TileConfig config(tokens, x_bytes);
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  ~TileScope() { __asm__ volatile("tilerelease" : : : "memory"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

template <int kTile>
[[gnu::always_inline]] inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows `stride` bytes apart, from kOffset bytes behind `from` on.
template <int kTile, int kOffset = 0>
[[gnu::always_inline]] inline void tile_load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd %c3(%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(stride), "i"(kTile), "i"(kOffset)
                   : "memory");
}
template <int kTile>
[[gnu::always_inline]] inline void tile_store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(to), "r"(stride), "i"(kTile)
                   : "memory");
}
// Sums += tokens . weights: of signed bytes; with unsigned weights; of bf16.
template <int kSum, int kX, int kW>
[[gnu::always_inline]] inline void tile_dot_s8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
}
template <int kSum, int kX, int kW>
[[gnu::always_inline]] inline void tile_dot_u8() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
}
template <int kSum, int kX, int kW>
[[gnu::always_inline]] inline void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
}

constexpr int64_t kMostTileTokens = 128;  // of a call

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Some bytes of the rows of n tokens, as tiles with the same number of rows; the last tile begins
// so early that it is full, too, and repeats tokens of the one before.
class TokenRows {
 public:
  TokenRows(const std::byte* const* x, int64_t n) : x_(x), n_(n) {
    tiles_ = (n + kTileRows - 1) / kTileRows;
    rows_ = (n + tiles_ - 1) / tiles_;
    evenly_ = true;
    for (int64_t t = 1; t < n; ++t) evenly_ = evenly_ && x[t] - x[t - 1] == x[1] - x[0];
  }
  int64_t tiles() const { return tiles_; }
  int64_t rows() const { return rows_; }
  int64_t first(int64_t tile) const { return min_of(tile * rows_, n_ - rows_); }

  // Where 64 bytes of each row of a tile are, `stride` apart, and where the next 64 are.
  struct Tile {
    const uint8_t* at;
    int64_t stride;
    int64_t step;
  };
  Tile tile(int64_t i) const {
    if (room_ != nullptr) return {room_ + i * room_tile_, kTileRowBytes, kTileBytes};
    return {reinterpret_cast<const uint8_t*>(x_[first(i)]) + first_byte_,
            n_ > 1 ? x_[1] - x_[0] : kTileRowBytes, kTileRowBytes};
  }

  // From here on, bytes [first, first + n_bytes) of each row: where they are, if rows are evenly
  // spaced and whole tile rows are asked for, or copied to `room`, room for kBytes a token in whole
  // tiles, and followed by zeros up to a whole tile row. n_bytes <= kBytes.
  template <int kBytes>
  void look_at(int64_t first_byte, int64_t n_bytes, uint8_t* room) {
    first_byte_ = first_byte;
    room_ = evenly_ && n_bytes % kTileRowBytes == 0 ? nullptr : room;
    room_tile_ = kTileRows * kBytes;
    if (room_ == nullptr) return;
    for (int64_t i = 0; i < tiles_; ++i, room += kTileRows * kBytes) {
      const std::byte* const* const x = x_ + first(i);
      for (int64_t r = 0; r < rows_; ++r) {
        copy_row<kBytes>(x[r] + first_byte, n_bytes, room + r * kTileRowBytes);
      }
    }
  }

 private:
  template <int kBytes>
  static void copy_row(const std::byte* from, int64_t n_bytes, uint8_t* to) {
    if (n_bytes == kBytes) {
      unrolled<kBytes / kTileRowBytes>([&](auto i) __attribute__((always_inline)) {
        _mm512_store_si512(to + i * kTileBytes, _mm512_loadu_si512(from + i * kTileRowBytes));
      });
      return;
    }
    for (int64_t i = 0; i < n_bytes; i += kTileRowBytes, to += kTileBytes) {
      const int64_t left = n_bytes - i;
      const __mmask64 some = left >= kTileRowBytes ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
      _mm512_store_si512(to, _mm512_maskz_loadu_epi8(some, from + i));
    }
  }

  const std::byte* const* x_;
  int64_t n_;
  int64_t tiles_;
  int64_t rows_;
  bool evenly_;
  int64_t first_byte_ = 0;
  const uint8_t* room_ = nullptr;
  int64_t room_tile_ = 0;
};

}  // namespace
}  // namespace tandem
