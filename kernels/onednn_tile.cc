#include "kernels/onednn_tile.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/dot_tile.h"
#include "kernels/onednn_gemm.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

int64_t g_from = kOnednnNever;

constexpr int64_t kBytes = 2;        // of a bf16
constexpr int64_t kChunkCols = 512;  // what fits on the stack; a multiple of what a line holds
// Tokens are filled up to a multiple, so that experts with this or that many need few shapes.
constexpr int64_t kTokenStep = 32;

// 16 dwords of 16 lanes to 16 rows, kChunkCols * kBytes apart: packing 16 lines once more.
void unpack_lines(const std::byte* lines, std::byte* rows) {
  constexpr int64_t kLine = 64;
  alignas(64) std::byte turned[16 * kLine];
  simd().pack_blocks(lines, kLine, 1, -1, 16, turned);
  for (int64_t r = 0; r < kGroupRows; ++r) {
    std::memcpy(rows + r * kChunkCols * kBytes, turned + r * kLine, kLine);
  }
}

// to: [kGroupRows, kChunkCols] bf16, zeros where W has no such row or column.
void unpack_group(const WeightView& w, int64_t first_row, int64_t col, int64_t n_cols,
                  std::byte* to) {
  constexpr int64_t kColsOfLines = 32;  // 16 lines of two columns
  const std::byte* group = group_of(w, first_row) + col / 2 * 64;
  if (w.layout == Layout::kPacked && simd().pack_blocks != nullptr && n_cols % kColsOfLines == 0) {
    for (int64_t c = 0; c < n_cols; c += kColsOfLines) {
      unpack_lines(group + c / 2 * 64, to + c * kBytes);
    }
    return;
  }
  for (int64_t r = 0; r < std::min(kGroupRows, w.rows - first_row); ++r) {
    std::byte* row = to + r * kChunkCols * kBytes;
    if (w.layout == Layout::kPacked) {
      unpack_blocks(packed_block(w.type), group, r, n_cols / 2, row);
    } else {
      std::memcpy(row, group_of(w, first_row + r) + col * kBytes,
                  static_cast<size_t>(n_cols * kBytes));
    }
  }
}

}  // namespace

void use_onednn_from(int64_t tokens) { g_from = tokens; }

int64_t onednn_from() { return g_from; }

const char* onednn_tile_missing() {
  if (const char* why = onednn_missing()) return why;
  static const bool kHas = [] {
    const std::vector<uint16_t> x(kTokenStep * kChunkCols);
    const std::vector<uint16_t> w(kRowTile * kChunkCols);
    std::vector<float> out(kTokenStep * kRowTile);
    return onednn_gemm(dense_gemm(GemmType::kBf16, kTokenStep, kRowTile, kChunkCols), x.data(),
                       w.data(), out.data());
  }();
  return kHas ? nullptr : "this oneDNN has no products of bf16 for this CPU";
}

bool onednn_tile(const WeightView& w, int64_t first_row, int64_t n_rows, const std::byte* const* x,
                 int64_t n_tokens, float* out) {
  alignas(64) std::byte weights[kRowTile * kChunkCols * kBytes];
  alignas(64) std::byte tokens[kTokenTile * kChunkCols * kBytes];
  alignas(64) float part[kTokenTile * kRowTile];
  const int64_t padded = (n_tokens + kTokenStep - 1) / kTokenStep * kTokenStep;
  const GemmShape shape = dense_gemm(GemmType::kBf16, padded, kRowTile, kChunkCols);
  for (int64_t t = 0; t < n_tokens; ++t) std::fill_n(out + t * kRowTile, n_rows, 0.0F);
  for (int64_t col = 0; col < w.cols; col += kChunkCols) {
    const int64_t n_cols = std::min(kChunkCols, w.cols - col);
    if (n_cols < kChunkCols || n_rows < kRowTile) std::memset(weights, 0, sizeof weights);
    std::memset(tokens, 0, static_cast<size_t>(padded * kChunkCols * kBytes));
    for (int64_t r = 0; r < n_rows; r += kGroupRows) {
      unpack_group(w, first_row + r, col, n_cols, weights + r * kChunkCols * kBytes);
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
      std::memcpy(tokens + t * kChunkCols * kBytes, x[t] + col * kBytes,
                  static_cast<size_t>(n_cols * kBytes));
    }
    if (!onednn_gemm(shape, tokens, weights, part)) return false;
    for (int64_t t = 0; t < n_tokens; ++t) {
      for (int64_t r = 0; r < n_rows; ++r) out[t * kRowTile + r] += part[t * kRowTile + r];
    }
  }
  return true;
}

}  // namespace tandem
