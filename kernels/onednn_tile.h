// BF16 products of many tokens by oneDNN, which uses matrix units (AMX) that our own loops do not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/tensor.h"

namespace tandem {

inline constexpr int64_t kOnednnNever = std::numeric_limits<int64_t>::max();

// From how many tokens of a tile on (dot_tile.h) products with BF16 weights are oneDNN's, for the
// whole process. At first never: `tandem calibrate` measures where it is faster. Additions are then
// in another order, so a token's last bits depend on its batch. Not while a kernel runs.
void use_onednn_from(int64_t tokens);
int64_t onednn_from();

// nullptr, or why onednn_tile() refuses everything here: a line for users. oneDNN has no products
// of bf16 for CPUs without AVX-512. The first call tries one.
const char* onednn_tile_missing();

// out[t, r] = W[first_row + r, :] . x[t], as dot_tile(); w: BF16; x: packed rows of kBf16.
// False where oneDNN is missing or refuses; out is undefined then.
bool onednn_tile(const WeightView& w, int64_t first_row, int64_t n_rows, const std::byte* const* x,
                 int64_t n_tokens, float* out);

}  // namespace tandem
