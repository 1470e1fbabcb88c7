// Causal attention with grouped query heads over one sequence's KV cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_cache.h"
#include "kernels/parallel.h"
#include "kernels/workspace.h"

namespace tandem {

// Of keys and of values: what attention()'s scratch holds.
inline constexpr int64_t kMaxHeadDim = 512;

// What n tokens bring. q: [n, n_heads, head_dim], k: [n, n_kv_heads, head_dim],
// v: [n, n_kv_heads, v_head_dim], f32.
struct NewTokens {
  const float* q;
  const float* k;
  const float* v;
  int64_t first_pos;
  int64_t n;
};

// Stores k and v at first_pos … first_pos + n - 1, and then
// out[t, h, :] = softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group], j <= first_pos + t
// out: [n, n_heads, v_head_dim] f32. f32 arithmetic, but keys in kQ8_0 take queries that are
// rounded as activations are (x_kind()). A result does not depend on how the tokens were batched.
// Heads are multiples of kv_type_block(). std::bad_alloc when scratch must grow and there is no
// memory.
void attention(const KvView& cache, const NewTokens& tokens, int64_t n_heads, float scale,
               float* out, Workspace& scratch, ParallelFor parallel);

}  // namespace tandem
