#include "kernels/dot_tile.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

// Columns whose products are summed before they join the element's running sum. Part of the
// numbers: changing it changes results. A multiple of every block size.
constexpr int64_t kColChunk = 512;

// Tokens per inner pass: with four rows of weights their columns (34 KiB at most with the
// chunk above) stay about L1-sized. Has no influence on results.
constexpr int64_t kTokenBlock = 9;

// Rows that dot_blocks takes at a time, so that few memory streams run at once.
constexpr int64_t kRowGroup = 4;

constexpr int64_t kTaskBytes = 64 * 1024;

void dot_one_token(const SimdOps& ops, const WeightView& w, const std::byte* rows, int64_t stride,
                   int64_t n_rows, const float* x, float* out) {
  for (int64_t r = 0; r < n_rows; r += kRowGroup) {
    const int64_t group = std::min(kRowGroup, n_rows - r);
    const std::byte* src = rows + r * stride;
    for (int64_t c = 0; c < w.cols; c += kColChunk) {
      const int64_t width = std::min(kColChunk, w.cols - c);
      ops.dot_blocks(w.type, src + dtype_bytes(w.type, c), stride, group, x + c, width, out + r);
    }
  }
}

}  // namespace

void dot_tile(const WeightView& w, int64_t first_row, int64_t n_rows,
              FunctionRef<const float*(int64_t token)> x_of, int64_t n_tokens, float* out) {
  TANDEM_CHECK(n_rows <= kRowTile && n_tokens <= kTokenTile, "%lld rows, %lld tokens",
               static_cast<long long>(n_rows), static_cast<long long>(n_tokens));
  const SimdOps& ops = simd();
  const int64_t stride = w.row_stride();
  const std::byte* rows = w.data + first_row * stride;
  std::fill_n(out, n_tokens * kRowTile, 0.0F);
  if (n_tokens == 1 && ops.dot_blocks != nullptr) {
    dot_one_token(ops, w, rows, stride, n_rows, x_of(0), out);
    return;
  }

  alignas(64) float weights[kRowTile * kColChunk];
  const float* x[kTokenTile];
  for (int64_t c = 0; c < w.cols; c += kColChunk) {
    const int64_t width = std::min(kColChunk, w.cols - c);
    const int64_t offset = dtype_bytes(w.type, c);
    for (int64_t r = 0; r < n_rows; ++r) {
      ops.dequantize(w.type, rows + r * stride + offset, weights + r * kColChunk, width);
    }
    for (int64_t t = 0; t < n_tokens; ++t) x[t] = x_of(t) + c;
    for (int64_t t = 0; t < n_tokens; t += kTokenBlock) {
      ops.dot(weights, kColChunk, n_rows, x + t, std::min(kTokenBlock, n_tokens - t), width,
              out + t * kRowTile, kRowTile);
    }
  }
}

int64_t rows_per_task(const WeightView& w, int64_t n_tokens) {
  const int64_t work_per_row =
      std::max<int64_t>(w.row_bytes() * std::max<int64_t>(n_tokens / 4, 1), 1);
  return (kTaskBytes / work_per_row / kRowTile + 1) * kRowTile;
}

}  // namespace tandem
