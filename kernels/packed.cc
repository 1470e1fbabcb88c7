#include "kernels/packed.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int64_t kLine = 64;  // bytes

// One block of one row into a group's block.
void pack_block(const PackedBlock& p, const std::byte* from, int64_t row, std::byte* to) {
  for (int i = 0; i < p.dwords; ++i) {
    std::memcpy(to + p.lines_at() + i * kLine + row * 4, from + p.dword_bytes + 4 * i, 4);
  }
  if (p.scale_bytes >= 0) std::memcpy(to + p.scales_at() + row * 2, from + p.scale_bytes, 2);
}

}  // namespace

PackedBlock packed_block(DType type) {
  switch (type) {
    case DType::kF32:
      return {1, 1, 0, -1};
    case DType::kF16:
    case DType::kBF16:
      return {2, 1, 0, -1};
    case DType::kQ4_0:
      return {32, 4, 2, 0};
    case DType::kQ5_0:
      return {32, 5, 2, 0};
    case DType::kQ8_0:
      return {32, 8, 2, 0};
    case DType::kQ4_K:
      return {256, 36, 0, -1};
    case DType::kQ5_K:
      return {256, 44, 0, -1};
    case DType::kQ6_K:
      return {256, 52, 0, 208};
  }
  TANDEM_CHECK(false, "type %u", static_cast<unsigned>(type));
}

bool can_pack(const WeightView& w) {
  return w.rows % kGroupRows == 0 && w.cols % packed_block(w.type).cols == 0;
}

int64_t packed_bytes(DType type, int64_t n_cols) {
  const PackedBlock p = packed_block(type);
  return (n_cols + p.cols - 1) / p.cols * p.group_bytes();
}

void pack_group(const WeightView& w, int64_t first_row, int64_t n_rows, int64_t first_col,
                int64_t n_cols, std::byte* to) {
  TANDEM_CHECK(w.layout == Layout::kRows && n_rows >= 1 && n_rows <= kGroupRows, "%lld rows",
               static_cast<long long>(n_rows));
  const PackedBlock p = packed_block(w.type);
  const int64_t blocks = n_cols / p.cols;
  const int64_t rest = n_cols % p.cols;  // of f16 and bf16, one column
  const std::byte* from = w.data + first_row * w.run_stride() + dtype_bytes(w.type, first_col);
  if (n_rows < kGroupRows) {
    std::memset(to, 0, static_cast<size_t>(packed_bytes(w.type, n_cols)));
  }
  if (n_rows == kGroupRows && simd().pack_blocks != nullptr) {
    simd().pack_blocks(from, w.run_stride(), p.dwords, p.scale_bytes, blocks, to);
  } else {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t r = 0; r < n_rows; ++r) {
        pack_block(p, from + r * w.run_stride() + b * p.bytes(), r, to + b * p.group_bytes());
      }
    }
  }
  if (rest == 0) return;
  for (int64_t r = 0; r < n_rows; ++r) {
    std::byte last[4] = {};
    std::memcpy(last, from + r * w.run_stride() + blocks * 4, 2);
    std::memcpy(to + blocks * kLine + r * 4, last, sizeof last);
  }
}

void unpack_blocks(const PackedBlock& block, const std::byte* group, int64_t lane, int64_t n_blocks,
                   std::byte* to) {
  for (int64_t b = 0; b < n_blocks; ++b, group += block.group_bytes(), to += block.bytes()) {
    for (int i = 0; i < block.dwords; ++i) {
      std::memcpy(to + block.dword_bytes + 4 * i, group + block.lines_at() + i * kLine + lane * 4,
                  4);
    }
    if (block.scale_bytes >= 0) {
      std::memcpy(to + block.scale_bytes, group + block.scales_at() + lane * 2, 2);
    }
  }
}

void unpack_row(const WeightView& w, int64_t row, std::byte* to) {
  TANDEM_CHECK(w.layout == Layout::kPacked && row >= 0 && row < w.rows, "row %lld of %lld",
               static_cast<long long>(row), static_cast<long long>(w.rows));
  const PackedBlock block = packed_block(w.type);
  unpack_blocks(block, w.data + row / kGroupRows * w.run_stride(), row % kGroupRows,
                w.cols / block.cols, to);
}

XKind x_kind(DType type) { return simd().pack_x == nullptr ? XKind::kFloat : rounded_x_kind(type); }

int64_t x_bytes(XKind kind, int64_t cols) {
  int64_t bytes = 0;
  switch (kind) {
    case XKind::kFloat:
      bytes = cols * 4;
      break;
    case XKind::kBf16:
      bytes = (cols + 1) / 2 * 4;
      break;
    case XKind::kQ8:
      bytes = cols + cols / 32 * 8;
      break;
    case XKind::kQ8K:
      bytes = cols + cols / 256 * 4 + cols / 32 * 2 + cols / 16 * 2;
      break;
  }
  const int64_t lines = (bytes + kLine - 1) / kLine;
  // An odd number: rows that are a multiple of 4 KiB apart would all want the same few places of an
  // L1 cache.
  return (kind == XKind::kFloat ? lines : lines | 1) * kLine;
}

void pack_x(XKind kind, const float* x, int64_t cols, std::byte* to) {
  TANDEM_CHECK(kind == XKind::kFloat || kind == XKind::kBf16 || cols % x_block(kind) == 0,
               "%lld columns", static_cast<long long>(cols));
  if (kind == XKind::kFloat) {
    if (cols > 0) std::memcpy(to, x, static_cast<size_t>(cols) * sizeof(float));
    return;
  }
  simd().pack_x(kind, x, cols, to);
}

}  // namespace tandem
