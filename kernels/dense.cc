#include "kernels/dense.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/packed_rows.h"

namespace tandem {
namespace {

struct MatmulArgs {
  const WeightView& w;
  const float* bias;
  const PackedRows& x;
  float* y;
  int64_t y_stride;
};

void matmul_tile(const MatmulArgs& a, int64_t row, int64_t n_rows, int64_t token,
                 int64_t n_tokens) {
  alignas(64) float out[kTokenTile * kRowTile];
  const auto x_of = [&](int64_t t) { return a.x.row(token + t); };
  dot_tile(a.w, row, n_rows, x_of, n_tokens, out);
  for (int64_t t = 0; t < n_tokens; ++t) {
    float* y = a.y + (token + t) * a.y_stride + row;
    const float* sums = out + t * kRowTile;
    for (int64_t r = 0; r < n_rows; ++r) {
      y[r] = a.bias != nullptr ? sums[r] + a.bias[row + r] : sums[r];
    }
  }
}

}  // namespace

void matmul(const WeightView& w, const float* bias, const float* x, int64_t x_stride, int64_t n,
            float* y, int64_t y_stride, Workspace& scratch, ParallelFor parallel) {
  if (n == 0 || w.rows == 0) return;
  TANDEM_CHECK(n == 1 || (x_stride >= w.cols && y_stride >= w.rows),
               "strides %lld and %lld of a [%lld, %lld] matrix", static_cast<long long>(x_stride),
               static_cast<long long>(y_stride), static_cast<long long>(w.rows),
               static_cast<long long>(w.cols));
  const XKind kind = x_kind(w.type);
  const PackedRows rows(kind, x, x_stride, n, w.cols,
                        scratch.at_least(PackedRows::bytes(kind, n, w.cols)), parallel);
  const MatmulArgs args{w, bias, rows, y, y_stride};
  const int64_t task_rows = rows_per_task(w, n);
  const auto task = [&](int64_t index) {
    const int64_t end = std::min((index + 1) * task_rows, w.rows);
    for (int64_t row = index * task_rows; row < end; row += kRowTile) {
      const int64_t n_rows = std::min(kRowTile, end - row);
      for (int64_t token = 0; token < n; token += kTokenTile) {
        matmul_tile(args, row, n_rows, token, std::min(kTokenTile, n - token));
      }
    }
  };
  parallel((w.rows + task_rows - 1) / task_rows, task);
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
