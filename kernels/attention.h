// Causal attention with grouped query heads over one sequence's KV cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/parallel.h"

namespace tandem {

enum class KvType { kF16, kF32 };
inline int64_t kv_type_bytes(KvType type) { return type == KvType::kF16 ? 2 : 4; }

// Of keys and of values: what attention()'s scratch holds.
inline constexpr int64_t kMaxHeadDim = 512;

// One layer's cache: k: [n_ctx, n_kv_heads, head_dim], v: [n_ctx, n_kv_heads, v_head_dim].
struct KvView {
  KvType type_k = KvType::kF16;
  KvType type_v = KvType::kF16;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
  std::byte* k = nullptr;
  std::byte* v = nullptr;
};

// Stores k, v: [n, n_kv_heads, head_dim] f32 at positions first_pos … first_pos + n - 1.
void kv_append(const KvView& cache, const float* k, const float* v, int64_t first_pos, int64_t n);

// out[t, h, :] = softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group], j <= first_pos + t
// q: [n, n_heads, head_dim] f32; out: [n, n_heads, v_head_dim] f32. f32 arithmetic, no allocation,
// and a result that does not depend on how the tokens were batched.
void attention(const KvView& cache, const float* q, int64_t n_heads, float scale, int64_t first_pos,
               int64_t n, float* out, ParallelFor parallel);

}  // namespace tandem
