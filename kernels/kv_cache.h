// One layer's keys and values of one sequence, laid out as the matrices that attention multiplies
// with.
//
// Positions come in tiles of kKvTile. Of a tile, head by head: keys are a packed matrix (packed.h)
// [kKvTile, head_dim], so that scores are its product with a query; values are a packed matrix
// [v_head_dim, kKvTile], its rows filled up to whole groups, whose product with the weights of the
// keys is attention's output. A tile's memory is touched when its first position is stored.
//
// kQ8_0: each 32 values of a position's key or value are a block of Q8_0 (quantize_q8_0()), rounded
// when the position is stored. Keys are then a packed matrix of Q8_0. Of values the blocks stand in
// columns, so a matrix of them has scales of its own, see Q8Values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace tandem {

enum class KvType { kF16, kF32, kQ8_0 };
// As flags name it: "f16".
const char* kv_type_name(KvType type);
// Values of a position that are rounded together: what heads must be a multiple of.
constexpr int64_t kv_type_block(KvType type) { return type == KvType::kQ8_0 ? 32 : 1; }

inline constexpr int64_t kKvTile = 64;

// A tile's values in kQ8_0, v_head_dim rows: of each 32 rows the f16 scales of kKvTile positions,
// and then two groups of 16 rows of int8, in lines (packed.h) of four positions.
struct Q8Values {
  static constexpr int64_t kRows = 32;
  static constexpr int64_t kScaleBytes = kKvTile * 2;
  static constexpr int64_t kGroupBytes = kKvTile * kGroupRows;
  static constexpr int64_t kBlockBytes = kScaleBytes + 2 * kGroupBytes;

  const std::byte* data = nullptr;

  // Of rows [32 i, 32 i + 32).
  const std::byte* scales(int64_t i) const { return data + i * kBlockBytes; }
  const std::byte* groups(int64_t i) const { return scales(i) + kScaleBytes; }
};

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
  // The first n positions of a tile; [v_head_dim filled up to whole groups, n]. Not of kQ8_0.
  WeightView values(int64_t tile, int64_t kv_head, int64_t n) const;
  // Where a tile's values begin, of any type.
  const std::byte* tile_of_values(int64_t tile, int64_t kv_head) const;
  // Of kQ8_0.
  Q8Values q8_values(int64_t tile, int64_t kv_head) const;
};

// Stores one head's part of k: [n, n_kv_heads, head_dim] and v: [n, n_kv_heads, v_head_dim], f32,
// at positions first_pos … first_pos + n - 1. What is not finite stays so (in f16, that is from
// 65520 on): kQ8_0 makes NaN of the block.
void kv_append(const KvView& cache, int64_t kv_head, const float* k, const float* v,
               int64_t first_pos, int64_t n);

}  // namespace tandem
