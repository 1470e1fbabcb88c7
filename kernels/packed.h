// The layout in which kernels read weights: the blocks of 16 rows, transposed by dwords.
//
// A group is 16 rows. Their i-th blocks stand together, and of these the k-th dwords of all rows
// stand together: one 64-byte line holds the same dword of 16 rows, so that a vector's lanes are
// rows and a dot product needs no sum over lanes. A block that is not whole dwords has one f16
// scale beside them; the 16 rows' scales stand where the scale stood. Nothing is recoded: a group
// has exactly the bytes of its rows, and any kernel can go back to the blocks of GGUF.
//
// Weights arrive packed (Layout::kPacked) or as the file has them; then kernels pack
// a group at a time into scratch, with rows that are missing as zeros, and results are the same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace tandem {

// How a group's block is laid out: 32-byte halves of scales (if any) before or behind the lines.
struct PackedBlock {
  int cols;         // columns of a block; for f32 1, for f16 and bf16 2: what a dword holds
  int dwords;       // of a row's block
  int dword_bytes;  // offset of the first in a row's block
  int scale_bytes;  // offset of a lone f16 scale in a row's block; -1: none
  int bytes() const { return dwords * 4 + (scale_bytes >= 0 ? 2 : 0); }  // of a row's block
  int group_bytes() const { return static_cast<int>(kGroupRows) * bytes(); }
  // Where the lines and the scales of a group's block are.
  int lines_at() const { return scale_bytes == 0 ? 32 : 0; }
  int scales_at() const { return scale_bytes == 0 ? 0 : dwords * 64; }
};
PackedBlock packed_block(DType type);

// Whether the matrix can be packed as a whole: its rows make whole groups and its columns blocks.
bool can_pack(const WeightView& w);

// Rows [first_row, first_row + n_rows) and columns [first_col, first_col + n_cols) of w, which is
// as the file has it, as one group; n_rows <= 16. to: packed_bytes(w.type, n_cols) bytes, any
// alignment. Columns that only half fill the last dword are followed by a zero.
void pack_group(const WeightView& w, int64_t first_row, int64_t n_rows, int64_t first_col,
                int64_t n_cols, std::byte* to);
int64_t packed_bytes(DType type, int64_t n_cols);  // of a group

// Blocks of row `lane` of a group, as the file would have them.
void unpack_blocks(const PackedBlock& block, const std::byte* group, int64_t lane, int64_t n_blocks,
                   std::byte* to);
// One row of a packed matrix as the file would have it. to: w.row_bytes() bytes.
void unpack_row(const WeightView& w, int64_t row, std::byte* to);

// How weights of a type want their activations, where these are rounded at all.
constexpr XKind rounded_x_kind(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
      return XKind::kFloat;
    case DType::kBF16:
      return XKind::kBf16;
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      return XKind::kQ8;
    default:
      return XKind::kQ8K;
  }
}

// What the table in use (simd.h) takes: the reference takes f32 for every type.
XKind x_kind(DType type);
inline int64_t x_block(XKind kind) { return kind == XKind::kQ8K ? 256 : 32; }

// A packed row of activations: cols int8, then of each block
//   kQ8:  f32 scale [cols / 32], int32 minus the sum of the int8 [cols / 32]
//   kQ8K: f32 scale [cols / 256], int16 sums of 32 [cols / 32], int16 sums of 16 [cols / 16]; each
//         four sums stand in the order 0 2 1 3, as pairs of scales come out of a dword.
// kBf16: bf16 [cols], a zero behind an odd number.
int64_t x_bytes(XKind kind, int64_t cols);  // a multiple of 64

// x: [cols] f32. to: x_bytes(), 4-byte aligned. Where a value is not finite, its block's scale is
// NaN (kBf16: the value), so that the product says so.
void pack_x(XKind kind, const float* x, int64_t cols, std::byte* to);

}  // namespace tandem
