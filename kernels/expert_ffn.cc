#include "kernels/expert_ffn.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/dot_tile.h"

namespace tandem {
namespace {

float silu(float v) { return v / (1.0F + std::exp(-v)); }

int64_t row_count(const ExpertCall& call) { return static_cast<int64_t>(call.rows.size()); }

int64_t hidden_floats(const ExpertCall& call) { return row_count(call) * call.weights.gate.rows; }

int64_t tiles_of(const ExpertCall& call) {
  return call.rows.empty() ? 0 : (call.weights.gate.rows + kRowTile - 1) / kRowTile;
}

void check_shapes(const ExpertWeights& w, int64_t d) {
  const int64_t ff = w.gate.rows;
  TANDEM_CHECK(w.gate.cols == d && w.up.cols == d && w.up.rows == ff && w.down.cols == ff &&
                   w.down.rows == d,
               "gate [%lld, %lld], up [%lld, %lld], down [%lld, %lld], d %lld",
               static_cast<long long>(ff), static_cast<long long>(w.gate.cols),
               static_cast<long long>(w.up.rows), static_cast<long long>(w.up.cols),
               static_cast<long long>(w.down.rows), static_cast<long long>(w.down.cols),
               static_cast<long long>(d));
}

// hidden[i, row …] = silu(gate . x[rows[i]]) * (up . x[rows[i]]); hidden: [rows.size(), ff].
void hidden_tile(const ExpertCall& call, int64_t row, const float* x, int64_t d, float* hidden) {
  alignas(64) float gate[kTokenTile * kRowTile];
  alignas(64) float up[kTokenTile * kRowTile];
  const int64_t ff = call.weights.gate.rows;
  const int64_t n_rows = std::min(kRowTile, ff - row);
  const int64_t n = row_count(call);
  for (int64_t first = 0; first < n; first += kTokenTile) {
    const int64_t n_tokens = std::min(kTokenTile, n - first);
    const auto x_of = [&](int64_t t) {
      return x + call.rows[static_cast<size_t>(first + t)].row * d;
    };
    dot_tile(call.weights.gate, row, n_rows, x_of, n_tokens, gate);
    dot_tile(call.weights.up, row, n_rows, x_of, n_tokens, up);
    for (int64_t t = 0; t < n_tokens; ++t) {
      float* out = hidden + (first + t) * ff + row;
      for (int64_t r = 0; r < n_rows; ++r) {
        out[r] = silu(gate[t * kRowTile + r]) * up[t * kRowTile + r];
      }
    }
  }
}

// y[rows[i], row …] += weight * (down . hidden[i])
void output_tile(const ExpertCall& call, int64_t row, const float* hidden, int64_t d, float* y) {
  alignas(64) float out[kTokenTile * kRowTile];
  const int64_t ff = call.weights.gate.rows;
  const int64_t n_rows = std::min(kRowTile, d - row);
  const int64_t n = row_count(call);
  for (int64_t first = 0; first < n; first += kTokenTile) {
    const int64_t n_tokens = std::min(kTokenTile, n - first);
    const auto x_of = [&](int64_t t) { return hidden + (first + t) * ff; };
    dot_tile(call.weights.down, row, n_rows, x_of, n_tokens, out);
    for (int64_t t = 0; t < n_tokens; ++t) {
      const ExpertRow& use = call.rows[static_cast<size_t>(first + t)];
      float* dst = y + use.row * d + row;
      for (int64_t r = 0; r < n_rows; ++r) dst[r] += use.weight * out[t * kRowTile + r];
    }
  }
}

WeightView row_range(WeightView w, int64_t begin, int64_t end) {
  w.data += begin * w.row_stride();
  w.rows = end - begin;
  return w;
}

WeightView column_range(WeightView w, int64_t begin, int64_t end) {
  w.stride_bytes = w.row_stride();
  w.data += dtype_bytes(w.type, begin);
  w.cols = end - begin;
  return w;
}

}  // namespace

ExpertWeights expert_part(const ExpertWeights& whole, int64_t begin, int64_t end) {
  const int64_t ff = whole.gate.rows;
  const int64_t block = dtype_info(whole.down.type).block_elems;
  TANDEM_CHECK(begin >= 0 && begin <= end && end <= ff && begin % block == 0 && end % block == 0,
               "[%lld, %lld) of %lld in blocks of %lld", static_cast<long long>(begin),
               static_cast<long long>(end), static_cast<long long>(ff),
               static_cast<long long>(block));
  if (begin == 0 && end == ff) return whole;
  return {row_range(whole.gate, begin, end), row_range(whole.up, begin, end),
          column_range(whole.down, begin, end)};
}

int64_t expert_ffn_hidden_floats(std::span<const ExpertCall> calls) {
  int64_t total = 0;
  for (const ExpertCall& call : calls) total += hidden_floats(call);
  return total;
}

void expert_ffn(std::span<const ExpertCall> calls, const float* x, int64_t d, float* y,
                float* hidden, ParallelFor parallel) {
  int64_t tiles = 0;
  for (const ExpertCall& call : calls) {
    check_shapes(call.weights, d);
    tiles += tiles_of(call);
  }
  if (tiles == 0) return;

  const auto hidden_task = [&](int64_t index) {
    float* call_hidden = hidden;
    for (const ExpertCall& call : calls) {
      if (index < tiles_of(call)) return hidden_tile(call, index * kRowTile, x, d, call_hidden);
      index -= tiles_of(call);
      call_hidden += hidden_floats(call);
    }
  };
  parallel(tiles, hidden_task);

  const auto output_task = [&](int64_t index) {
    const float* call_hidden = hidden;
    for (const ExpertCall& call : calls) {
      output_tile(call, index * kRowTile, call_hidden, d, y);
      call_hidden += hidden_floats(call);
    }
  };
  parallel((d + kRowTile - 1) / kRowTile, output_task);
}

}  // namespace tandem
