#include "kernels/expert_ffn.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/packed_rows.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

// With more, reading weights is not what takes the time.
constexpr int64_t kFewTokens = 16;

int64_t row_count(const ExpertCall& call) { return static_cast<int64_t>(call.rows.size()); }

int64_t hidden_floats(const ExpertCall& call) { return row_count(call) * call.weights.gate.rows; }

// Of a packed one.
int64_t hidden_row_bytes(const ExpertCall& call) {
  return x_bytes(x_kind(call.weights.down.type), call.weights.down.cols);
}

int64_t tiles_of(const ExpertCall& call) {
  return call.rows.empty() ? 0 : (call.weights.gate.rows + kRowTile - 1) / kRowTile;
}

void check_shapes(const ExpertWeights& w, const ExpertWeights& first, int64_t d) {
  const int64_t ff = w.gate.rows;
  TANDEM_CHECK(w.gate.cols == d && w.up.cols == d && w.up.rows == ff && w.down.cols == ff &&
                   w.down.rows == d,
               "gate [%lld, %lld], up [%lld, %lld], down [%lld, %lld], d %lld",
               static_cast<long long>(ff), static_cast<long long>(w.gate.cols),
               static_cast<long long>(w.up.rows), static_cast<long long>(w.up.cols),
               static_cast<long long>(w.down.rows), static_cast<long long>(w.down.cols),
               static_cast<long long>(d));
  TANDEM_CHECK(w.gate.type == first.gate.type && w.up.type == first.up.type &&
                   w.down.type == first.down.type,
               "experts of different types");
}

// hidden[i, row …] = silu(gate . x[rows[i]]) * (up . x[rows[i]]); hidden: [rows.size(), ff].
void hidden_tile(const PackedRows& x_gate, const PackedRows& x_up, const ExpertCall& call,
                 int64_t row, float* hidden, const std::byte* next) {
  alignas(64) float gate[kTokenTile * kRowTile];
  alignas(64) float up[kTokenTile * kRowTile];
  const int64_t ff = call.weights.gate.rows;
  const int64_t n_rows = std::min(kRowTile, ff - row);
  const int64_t n = row_count(call);
  for (int64_t first = 0; first < n; first += kTokenTile) {
    const int64_t n_tokens = std::min(kTokenTile, n - first);
    const auto row_of = [&](int64_t t) { return call.rows[static_cast<size_t>(first + t)].row; };
    // Group by group: packed side by side, gate and up are one run of memory. With many tokens
    // arithmetic is the limit, and float formats do two groups at once.
    const int64_t step = n_tokens > kFewTokens ? kRowTile : kGroupRows;
    for (int64_t r = 0; r < n_rows; r += step) {
      const int64_t some = std::min(step, n_rows - r);
      const std::byte* after =
          r + some < n_rows ? group_of(call.weights.gate, row + r + some) : next;
      dot_tile(
          call.weights.gate, row + r, some, [&](int64_t t) { return x_gate.row(row_of(t)); },
          n_tokens, gate + r, group_of(call.weights.up, row + r));
      dot_tile(
          call.weights.up, row + r, some, [&](int64_t t) { return x_up.row(row_of(t)); }, n_tokens,
          up + r, after);
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
      simd().silu_mul(gate + t * kRowTile, up + t * kRowTile, n_rows);
      std::copy_n(gate + t * kRowTile, n_rows, hidden + (first + t) * ff + row);
    }
  }
}

// y[rows[i], row …] += weight * (down . hidden[i]); hidden: [rows.size()] packed rows.
void output_tile(const ExpertCall& call, const std::byte* hidden, int64_t row, int64_t d, float* y,
                 const std::byte* next) {
  const int64_t stride = hidden_row_bytes(call);
  alignas(64) float out[kTokenTile * kRowTile];
  const int64_t n_rows = std::min(kRowTile, d - row);
  const int64_t n = row_count(call);
  for (int64_t first = 0; first < n; first += kTokenTile) {
    const int64_t n_tokens = std::min(kTokenTile, n - first);
    const auto x_of = [&](int64_t t) { return hidden + (first + t) * stride; };
    dot_tile(call.weights.down, row, n_rows, x_of, n_tokens, out, next);
    for (int64_t t = 0; t < n_tokens; ++t) {
      const ExpertRow& use = call.rows[static_cast<size_t>(first + t)];
      float* dst = y + use.row * d + row;
      for (int64_t r = 0; r < n_rows; ++r) dst[r] += use.weight * out[t * kRowTile + r];
    }
  }
}

// One task a call, where there is enough to do.
void pack_hidden(std::span<const ExpertCall> calls, const float* hidden, std::byte* to,
                 ParallelFor parallel) {
  const auto pack_call = [&](int64_t index) {
    const float* from = hidden;
    std::byte* at = to;
    for (const ExpertCall& call : calls.first(static_cast<size_t>(index))) {
      from += hidden_floats(call);
      at += row_count(call) * hidden_row_bytes(call);
    }
    const ExpertCall& call = calls[static_cast<size_t>(index)];
    const int64_t ff = call.weights.gate.rows;
    for (int64_t i = 0; i < row_count(call); ++i) {
      pack_x(x_kind(call.weights.down.type), from + i * ff, ff, at + i * hidden_row_bytes(call));
    }
  };
  const auto n = static_cast<int64_t>(calls.size());
  if (expert_ffn_hidden_floats(calls) < kWorthARegion) {
    serial_for(n, pack_call);
  } else {
    parallel(n, pack_call);
  }
}

WeightView row_range(WeightView w, int64_t begin, int64_t end) {
  const int64_t runs = w.layout == Layout::kPacked ? begin / kGroupRows : begin;
  w.data += runs * w.run_stride();
  w.rows = end - begin;
  return w;
}

WeightView column_range(WeightView w, int64_t begin, int64_t end) {
  w.stride_bytes = w.run_stride();
  w.data += dtype_bytes(w.type, begin) * w.run_rows();
  w.cols = end - begin;
  return w;
}

// What cuts must be a multiple of where any of the matrices is packed: the rows of a group.
int64_t cut_rows(const ExpertWeights& w) {
  return std::max({w.gate.run_rows(), w.up.run_rows(), w.down.run_rows()});
}

}  // namespace

ExpertWeights expert_part(const ExpertWeights& whole, int64_t begin, int64_t end) {
  const int64_t ff = whole.gate.rows;
  if (begin == 0 && end == ff) return whole;
  // Both are powers of two, and divisions take long for what is called for every copy.
  const int64_t block = std::max<int64_t>(dtype_info(whole.down.type).block_elems, cut_rows(whole));
  TANDEM_CHECK(begin >= 0 && begin <= end && end <= ff && (begin & (block - 1)) == 0 &&
                   ((end & (block - 1)) == 0 || end == ff),
               "[%lld, %lld) of %lld in blocks of %lld", static_cast<long long>(begin),
               static_cast<long long>(end), static_cast<long long>(ff),
               static_cast<long long>(block));
  return {row_range(whole.gate, begin, end), row_range(whole.up, begin, end),
          column_range(whole.down, begin, end)};
}

int64_t expert_ffn_hidden_floats(std::span<const ExpertCall> calls) {
  int64_t total = 0;
  for (const ExpertCall& call : calls) total += hidden_floats(call);
  return total;
}

void expert_ffn(std::span<const ExpertCall> calls, const float* x, int64_t n, int64_t d, float* y,
                float* hidden, Workspace& scratch, ParallelFor parallel) {
  int64_t tiles = 0;  // of the largest
  int64_t packed_bytes = 0;
  for (const ExpertCall& call : calls) {
    check_shapes(call.weights, calls.front().weights, d);
    tiles = std::max(tiles, tiles_of(call));
    packed_bytes += row_count(call) * hidden_row_bytes(call);
  }
  if (tiles == 0) return;
  const XKind gate_kind = x_kind(calls.front().weights.gate.type);
  const XKind up_kind = x_kind(calls.front().weights.up.type);
  const int64_t gate_bytes = PackedRows::bytes(gate_kind, n, d);
  const int64_t up_bytes = up_kind == gate_kind ? 0 : PackedRows::bytes(up_kind, n, d);
  std::byte* room = scratch.at_least(gate_bytes + up_bytes + packed_bytes);

  const PackedRows x_gate(gate_kind, x, n, d, room, parallel);
  const PackedRows x_up =
      up_kind == gate_kind ? x_gate : PackedRows(up_kind, x, n, d, room + gate_bytes, parallel);
  // All experts' first rows, then their second: a part of the tasks is a part of each one's rows.
  const auto n_calls = static_cast<int64_t>(calls.size());
  const auto hidden_task = [&](int64_t index) {
    const int64_t tile = index / n_calls;
    const int64_t i = index % n_calls;
    const ExpertCall& call = calls[static_cast<size_t>(i)];
    if (tile >= tiles_of(call)) return;
    float* call_hidden = hidden;
    for (const ExpertCall& before : calls.first(static_cast<size_t>(i))) {
      call_hidden += hidden_floats(before);
    }
    // Tasks are mostly handed out in their order.
    const bool last = i + 1 == n_calls;
    const ExpertCall& after = calls[static_cast<size_t>(last ? 0 : i + 1)];
    const int64_t next_row =
        std::min((tile + (last ? 1 : 0)) * kRowTile, after.weights.gate.rows - 1);
    const std::byte* next = group_of(after.weights.gate, std::max<int64_t>(next_row, 0));
    hidden_tile(x_gate, x_up, call, tile * kRowTile, call_hidden, next);
  };
  parallel(tiles * n_calls, hidden_task);

  std::byte* packed_hidden = room + gate_bytes + up_bytes;
  pack_hidden(calls, hidden, packed_hidden, parallel);
  const int64_t output_tiles = (d + kRowTile - 1) / kRowTile;
  const auto output_task = [&](int64_t index) {
    const std::byte* call_hidden = packed_hidden;
    for (size_t i = 0; i < calls.size(); ++i) {
      const ExpertCall& call = calls[i];
      const bool last = i + 1 == calls.size();
      const std::byte* next =
          group_of(calls[last ? 0 : i + 1].weights.down,
                   std::min(index + (last ? 1 : 0), output_tiles - 1) * kRowTile);
      output_tile(call, call_hidden, index * kRowTile, d, y, next);
      call_hidden += row_count(call) * hidden_row_bytes(call);
    }
  };
  parallel(output_tiles, output_task);
}

}  // namespace tandem
