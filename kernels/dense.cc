#include "kernels/dense.h"

#include <algorithm>
#include <optional>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/packed_rows.h"

namespace tandem {
namespace {

constexpr size_t kKinds = 4;  // of activations

// The tokens once in each form that the parts take.
class PackedForms {
 public:
  PackedForms(std::span<const MatmulPart> parts, const float* x, int64_t n, Workspace& scratch,
              ParallelFor parallel) {
    const int64_t cols = parts.front().w.cols;
    bool wanted[kKinds] = {};
    int64_t bytes = 0;
    for (const MatmulPart& part : parts) {
      bool& kind = wanted[index(part.w)];
      if (!kind) bytes += PackedRows::bytes(x_kind(part.w.type), n, cols);
      kind = true;
    }
    std::byte* room = scratch.at_least(bytes);
    for (size_t i = 0; i < kKinds; ++i) {
      if (!wanted[i]) continue;
      const auto kind = static_cast<XKind>(i);
      rows_[i].emplace(kind, x, n, cols, room, parallel);
      room += PackedRows::bytes(kind, n, cols);
    }
  }
  const PackedRows& of(const WeightView& w) const { return *rows_[index(w)]; }

 private:
  static size_t index(const WeightView& w) { return static_cast<size_t>(x_kind(w.type)); }

  std::optional<PackedRows> rows_[kKinds];
};

// Rows [row, row + n_rows) and tokens [token, token + n_tokens), at most a tile.
void matmul_tile(const MatmulPart& part, const PackedRows& x, int64_t row, int64_t n_rows,
                 int64_t token, int64_t n_tokens, const std::byte* next) {
  alignas(64) float out[kTokenTile * kRowTile];
  const auto x_of = [&](int64_t t) { return x.row(token + t); };
  dot_tile(part.w, row, n_rows, x_of, n_tokens, out, next);
  for (int64_t t = 0; t < n_tokens; ++t) {
    float* y = part.y + (token + t) * part.w.rows + row;
    const float* sums = out + t * kRowTile;
    for (int64_t r = 0; r < n_rows; ++r) {
      y[r] = part.bias != nullptr ? sums[r] + part.bias[row + r] : sums[r];
    }
  }
}

int64_t tasks_of(const MatmulPart& part, int64_t n) {
  const int64_t rows = rows_per_task(part.w, n);
  return (part.w.rows + rows - 1) / rows;
}

}  // namespace

void matmul(std::span<const MatmulPart> parts, const float* x, int64_t n, Workspace& scratch,
            ParallelFor parallel) {
  if (n == 0 || parts.empty()) return;
  int64_t tasks = 0;
  for (const MatmulPart& part : parts) {
    TANDEM_CHECK(part.w.cols == parts.front().w.cols, "[%lld, %lld] beside %lld columns",
                 static_cast<long long>(part.w.rows), static_cast<long long>(part.w.cols),
                 static_cast<long long>(parts.front().w.cols));
    tasks += tasks_of(part, n);
  }
  const PackedForms forms(parts, x, n, scratch, parallel);
  parallel(tasks, [&](int64_t index) {
    const MatmulPart* part = parts.data();
    for (; index >= tasks_of(*part, n); ++part) index -= tasks_of(*part, n);
    const int64_t task_rows = rows_per_task(part->w, n);
    const int64_t end = std::min((index + 1) * task_rows, part->w.rows);
    // Tasks are mostly handed out in their order.
    const MatmulPart& after = part + 1 < parts.data() + parts.size() ? part[1] : *part;
    for (int64_t row = index * task_rows; row < end; row += kRowTile) {
      const int64_t n_rows = std::min(kRowTile, end - row);
      const std::byte* next = row + n_rows < part->w.rows ? nullptr : after.w.data;
      for (int64_t token = 0; token < n; token += kTokenTile) {
        matmul_tile(*part, forms.of(part->w), row, n_rows, token, std::min(kTokenTile, n - token),
                    next);
      }
    }
  });
}

void embed(const WeightView& w, std::span<const int32_t> ids, float* y) {
  TANDEM_CHECK(w.layout == Layout::kRows, "%lld packed rows", static_cast<long long>(w.rows));
  for (size_t i = 0; i < ids.size(); ++i) {
    TANDEM_CHECK(ids[i] >= 0 && ids[i] < w.rows, "token %d of %lld", ids[i],
                 static_cast<long long>(w.rows));
    dequantize(w.type, w.data + ids[i] * w.run_stride(), y + static_cast<int64_t>(i) * w.cols,
               w.cols);
  }
}

}  // namespace tandem
