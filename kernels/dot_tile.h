// Dot products of a tile of weight rows with a tile of tokens: the one loop under dense.cc and
// expert_ffn.cc. Runs on the calling thread, about 100 KiB of stack, no allocation.
#pragma once

#include <cstdint>

#include "kernels/function_ref.h"
#include "kernels/tensor.h"

namespace tandem {

inline constexpr int64_t kRowTile = 64;
inline constexpr int64_t kTokenTile = 128;

// out[t, r] = W[first_row + r, :] . x_of(t), r in [0, n_rows), t in [0, n_tokens).
// first_row: a multiple of kGroupRows; n_rows <= kRowTile; n_tokens <= kTokenTile; x_of(t): a row
// of w.cols activations as pack_x(x_kind(w.type)) leaves it; out: [n_tokens, n_rows], rows kRowTile
// apart, written beyond n_rows up to whole groups. The order of additions for an element depends on
// w.cols and on nothing else, packed weights or not. next: packed weights that the caller reads
// after these, if not those of the rows that follow; fetched ahead.
void dot_tile(const WeightView& w, int64_t first_row, int64_t n_rows,
              FunctionRef<const std::byte*(int64_t token)> x_of, int64_t n_tokens, float* out,
              const std::byte* next = nullptr);

// Where the group of this row begins; of weights that are not packed, the row.
inline const std::byte* group_of(const WeightView& w, int64_t row) {
  return w.data + row / w.run_rows() * w.run_stride();
}

// Rows that make a task worth handing out: a multiple of kRowTile.
int64_t rows_per_task(const WeightView& w, int64_t n_tokens);

}  // namespace tandem
