// One layer's keys and values of one sequence, laid out as the matrices that attention multiplies
// with.
//
// Positions come in tiles of kKvTile. Of a tile, head by head: keys are a packed matrix (packed.h)
// [kKvTile, head_dim], so that scores are its product with a query; values are a packed matrix
// [v_head_dim, kKvTile], its rows filled up to whole groups, whose product with the weights of the
// keys is attention's output. A tile's memory is touched when its first position is stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace tandem {

enum class KvType { kF16, kF32 };

inline constexpr int64_t kKvTile = 64;

struct KvShape {
  KvType type_k = KvType::kF16;
  KvType type_v = KvType::kF16;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;

  // Of one head's tile.
  int64_t k_tile_bytes() const;
  int64_t v_tile_bytes() const;
  // Of the whole cache for n_ctx positions.
  int64_t k_bytes(int64_t n_ctx) const;
  int64_t v_bytes(int64_t n_ctx) const;
};

// k: shape.k_bytes() and v: shape.v_bytes() bytes.
struct KvView {
  KvShape shape;
  std::byte* k = nullptr;
  std::byte* v = nullptr;

  // Of a tile; [kKvTile, head_dim].
  WeightView keys(int64_t tile, int64_t kv_head) const;
  // The first n positions of a tile; [v_head_dim filled up to whole groups, n].
  WeightView values(int64_t tile, int64_t kv_head, int64_t n) const;
};

// Stores one head's part of k: [n, n_kv_heads, head_dim] and v: [n, n_kv_heads, v_head_dim], f32,
// at positions first_pos … first_pos + n - 1.
void kv_append(const KvView& cache, int64_t kv_head, const float* k, const float* v,
               int64_t first_pos, int64_t n);

}  // namespace tandem
