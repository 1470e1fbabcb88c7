#include "kernels/dot_tile.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/onednn_tile.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int64_t kTaskBytes = 64 * 1024;

// Of a group that is packed on the way, cut where dot_packed may be. Has no influence on results.
constexpr int64_t kChunkBytes = 32 * 1024;
constexpr int64_t kCutCols = 256;

// Of packed activations of all tokens: a part of an L2 cache. Has no influence on results.
constexpr int64_t kTokenBytes = 256 * 1024;

struct Tokens {
  const std::byte* x[kTokenTile];
  int64_t n;
};

// Groups of packed weights: n of them, stride bytes apart, and what is read after them.
struct Groups {
  const std::byte* at;
  int64_t n;
  int64_t stride;
  const std::byte* next;
};

// The tokens in shares that the inner loop holds in registers, as equal as they can be.
void dot_groups(const SimdOps& ops, const WeightView& w, const Groups& groups, int64_t first_col,
                int64_t n_cols, const Tokens& tokens, float* out) {
  const int64_t most = ops.dot_tile(x_kind(w.type)).tokens;
  const int64_t shares = (tokens.n + most - 1) / most;
  for (int64_t i = 0; i < shares; ++i) {
    const int64_t first = tokens.n * i / shares;
    const int64_t n = tokens.n * (i + 1) / shares - first;
    ops.dot_packed(w.type, groups.at, groups.n, groups.stride, {groups.next, i, shares}, w.cols,
                   first_col, n_cols, tokens.x + first, n, out + first * kRowTile, kRowTile);
  }
}

void dot_unpacked(const SimdOps& ops, const WeightView& w, int64_t first_row, int64_t n_rows,
                  const Tokens& tokens, float* out) {
  alignas(64) std::byte chunk[kChunkBytes];
  const PackedBlock block = packed_block(w.type);
  const int64_t step = kChunkBytes / block.group_bytes() * block.cols / kCutCols * kCutCols;
  for (int64_t c = 0; c < w.cols; c += step) {
    const int64_t width = std::min(step, w.cols - c);
    pack_group(w, first_row, n_rows, c, width, chunk);
    dot_groups(ops, w, {chunk, 1, 0, chunk}, c, width, tokens, out);
  }
}

// All groups of the tile by some columns, then by the next: what the tokens hold of these stays in
// the L2 cache.
void dot_packed_tile(const SimdOps& ops, const WeightView& w, int64_t first_row, int64_t n_groups,
                     const Tokens& tokens, float* out, const std::byte* next) {
  const PackedBlock block = packed_block(w.type);
  const int64_t at_once = ops.dot_tile(x_kind(w.type)).groups;
  const int64_t step =
      std::max(kCutCols, kTokenBytes / tokens.n / kCutCols * kCutCols);  // a byte each, or more
  const auto at = [&](int64_t group, int64_t col) {
    return group_of(w, first_row + group * kGroupRows) + col / block.cols * block.group_bytes();
  };
  if (next == nullptr) next = at(n_groups - 1, 0) + w.run_stride();
  for (int64_t c = 0; c < w.cols; c += step) {
    const int64_t width = std::min(step, w.cols - c);
    const std::byte* after = c + width < w.cols ? at(0, c + width) : next;
    for (int64_t g = 0; g < n_groups;) {
      const int64_t n = std::min(at_once, n_groups - g);
      const Groups groups{at(g, c), n, w.run_stride(), g + n < n_groups ? at(g + n, c) : after};
      dot_groups(ops, w, groups, c, width, tokens, out + g * kGroupRows);
      g += n;
    }
  }
}

}  // namespace

void dot_tile(const WeightView& w, int64_t first_row, int64_t n_rows,
              FunctionRef<const std::byte*(int64_t token)> x_of, int64_t n_tokens, float* out,
              const std::byte* next) {
  TANDEM_CHECK(n_rows <= kRowTile && n_tokens <= kTokenTile && first_row % kGroupRows == 0,
               "%lld rows from %lld, %lld tokens", static_cast<long long>(n_rows),
               static_cast<long long>(first_row), static_cast<long long>(n_tokens));
  const SimdOps& ops = simd();
  Tokens tokens;
  tokens.n = n_tokens;
  for (int64_t t = 0; t < n_tokens; ++t) tokens.x[t] = x_of(t);
  if (w.type == DType::kBF16 && n_tokens >= onednn_from() && x_kind(w.type) == XKind::kBf16 &&
      onednn_tile(w, first_row, n_rows, tokens.x, n_tokens, out)) {
    return;
  }
  const int64_t cleared = (n_rows + kGroupRows - 1) / kGroupRows * kGroupRows;
  for (int64_t t = 0; t < n_tokens; ++t) std::fill_n(out + t * kRowTile, cleared, 0.0F);
  if (w.layout == Layout::kRows) {
    for (int64_t r = 0; r < n_rows; r += kGroupRows) {
      dot_unpacked(ops, w, first_row + r, std::min(kGroupRows, n_rows - r), tokens, out + r);
    }
    return;
  }
  dot_packed_tile(ops, w, first_row, n_rows / kGroupRows, tokens, out, next);
}

int64_t rows_per_task(const WeightView& w, int64_t n_tokens) {
  const int64_t work_per_row =
      std::max<int64_t>(w.row_bytes() * std::max<int64_t>(n_tokens / 4, 1), 1);
  return (kTaskBytes / work_per_row / kRowTile + 1) * kRowTile;
}

}  // namespace tandem
