#include "kernels/kv_cache.h"

#include <cstring>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = 128;  // values that are converted at once

DType dtype_of(KvType type) { return type == KvType::kF16 ? DType::kF16 : DType::kF32; }

int64_t tiles(int64_t n_ctx) { return (n_ctx + kKvTile - 1) / kKvTile; }

int64_t groups(int64_t rows) { return (rows + kGroupRows - 1) / kGroupRows; }

// Where a row's column is in a packed matrix of T.
template <typename T>
int64_t offset_of(int64_t group_bytes, int64_t row, int64_t col) {
  constexpr int64_t kPerDword = 4 / sizeof(T);
  return row / kGroupRows * group_bytes + col / kPerDword * 64 + row % kGroupRows * 4 +
         col % kPerDword * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void store(const T* values, int64_t n, int64_t first_row, int64_t row_step, int64_t first_col,
           int64_t col_step, int64_t group_bytes, std::byte* matrix) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at =
        offset_of<T>(group_bytes, first_row + i * row_step, first_col + i * col_step);
    std::memcpy(matrix + at, values + i, sizeof(T));
  }
}

// Values i in [0, n) go to row first_row + i * row_step and column first_col + i * col_step.
void store(KvType type, const float* values, int64_t n, int64_t first_row, int64_t row_step,
           int64_t first_col, int64_t col_step, int64_t group_bytes, std::byte* matrix) {
  if (type == KvType::kF32) {
    return store(values, n, first_row, row_step, first_col, col_step, group_bytes, matrix);
  }
  for (int64_t i = 0; i < n; i += kChunk) {
    uint16_t halves[kChunk];
    const int64_t some = n - i < kChunk ? n - i : kChunk;
    simd().store_f16(values + i, reinterpret_cast<std::byte*>(halves), some);
    store(halves, some, first_row + i * row_step, row_step, first_col + i * col_step, col_step,
          group_bytes, matrix);
  }
}

std::byte* head_tile(std::byte* base, int64_t tile_bytes, int64_t n_kv_heads, int64_t tile,
                     int64_t kv_head) {
  return base + (tile * n_kv_heads + kv_head) * tile_bytes;
}

}  // namespace

int64_t KvShape::k_tile_bytes() const {
  return groups(kKvTile) * packed_bytes(dtype_of(type_k), head_dim);
}

int64_t KvShape::v_tile_bytes() const {
  return groups(v_head_dim) * packed_bytes(dtype_of(type_v), kKvTile);
}

int64_t KvShape::k_bytes(int64_t n_ctx) const { return tiles(n_ctx) * n_kv_heads * k_tile_bytes(); }

int64_t KvShape::v_bytes(int64_t n_ctx) const { return tiles(n_ctx) * n_kv_heads * v_tile_bytes(); }

WeightView KvView::keys(int64_t tile, int64_t kv_head) const {
  const DType type = dtype_of(shape.type_k);
  return {type,
          kKvTile,
          shape.head_dim,
          head_tile(k, shape.k_tile_bytes(), shape.n_kv_heads, tile, kv_head),
          packed_bytes(type, shape.head_dim),
          Layout::kPacked};
}

WeightView KvView::values(int64_t tile, int64_t kv_head, int64_t n) const {
  const DType type = dtype_of(shape.type_v);
  return {type,
          groups(shape.v_head_dim) * kGroupRows,
          n,
          head_tile(v, shape.v_tile_bytes(), shape.n_kv_heads, tile, kv_head),
          packed_bytes(type, kKvTile),
          Layout::kPacked};
}

void kv_append(const KvView& cache, int64_t kv_head, const float* k, const float* v,
               int64_t first_pos, int64_t n) {
  const KvShape& s = cache.shape;
  const int64_t k_group = packed_bytes(dtype_of(s.type_k), s.head_dim);
  const int64_t v_group = packed_bytes(dtype_of(s.type_v), kKvTile);
  for (int64_t t = 0; t < n; ++t) {
    const int64_t tile = (first_pos + t) / kKvTile;
    const int64_t position = (first_pos + t) % kKvTile;
    const int64_t row = t * s.n_kv_heads + kv_head;
    store(s.type_k, k + row * s.head_dim, s.head_dim, position, 0, 0, 1, k_group,
          head_tile(cache.k, s.k_tile_bytes(), s.n_kv_heads, tile, kv_head));
    store(s.type_v, v + row * s.v_head_dim, s.v_head_dim, 0, 1, position, 0, v_group,
          head_tile(cache.v, s.v_tile_bytes(), s.n_kv_heads, tile, kv_head));
  }
}

}  // namespace tandem
