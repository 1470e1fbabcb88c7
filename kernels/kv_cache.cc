#include "kernels/kv_cache.h"

#include <cstring>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = 128;  // values that are converted at once

DType dtype_of(KvType type) {
  switch (type) {
    case KvType::kF16:
      return DType::kF16;
    case KvType::kF32:
      return DType::kF32;
    case KvType::kQ8_0:
      return DType::kQ8_0;
  }
  TANDEM_CHECK(false, "KV cache type %d", static_cast<int>(type));
}

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

// A block of Q8_0: its scale, then int8 (quant.h).
struct Q8Block {
  uint16_t scale;
  int8_t q[32];
};
static_assert(sizeof(Q8Block) == 34);

Q8Block q8_block(const float* values) {
  Q8Block block;
  quantize_q8_0(values, reinterpret_cast<std::byte*>(&block));
  return block;
}

// A position's key into a packed matrix of kQ8_0.
void store_q8_key(const float* values, int64_t n, int64_t position, int64_t group_bytes,
                  std::byte* matrix) {
  const PackedBlock packed = packed_block(DType::kQ8_0);
  const int64_t lane = position % kGroupRows;
  std::byte* group = matrix + position / kGroupRows * group_bytes;
  for (int64_t c = 0; c < n; c += packed.cols, group += packed.group_bytes()) {
    const Q8Block block = q8_block(values + c);
    std::memcpy(group + packed.scales_at() + lane * 2, &block.scale, sizeof block.scale);
    for (int64_t i = 0; i < packed.dwords; ++i) {
      std::memcpy(group + packed.lines_at() + i * 64 + lane * 4, block.q + i * 4, 4);
    }
  }
}

void store_q8_value(const float* values, int64_t n, int64_t position, std::byte* tile) {
  for (int64_t r = 0; r < n; r += Q8Values::kRows, tile += Q8Values::kBlockBytes) {
    const Q8Block block = q8_block(values + r);
    std::memcpy(tile + position * 2, &block.scale, sizeof block.scale);
    std::byte* column = tile + Q8Values::kScaleBytes + position / 4 * 64 + position % 4;
    for (int64_t i = 0; i < Q8Values::kRows; ++i) {
      const int64_t at = i / kGroupRows * Q8Values::kGroupBytes + i % kGroupRows * 4;
      column[at] = static_cast<std::byte>(block.q[i]);
    }
  }
}

std::byte* head_tile(std::byte* base, int64_t tile_bytes, int64_t n_kv_heads, int64_t tile,
                     int64_t kv_head) {
  return base + (tile * n_kv_heads + kv_head) * tile_bytes;
}

}  // namespace

const char* kv_type_name(KvType type) { return dtype_info(dtype_of(type)).name; }

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

const std::byte* KvView::tile_of_values(int64_t tile, int64_t kv_head) const {
  return head_tile(v, shape.v_tile_bytes(), shape.n_kv_heads, tile, kv_head);
}

WeightView KvView::values(int64_t tile, int64_t kv_head, int64_t n) const {
  TANDEM_CHECK(shape.type_v != KvType::kQ8_0, "values in %s", kv_type_name(shape.type_v));
  const DType type = dtype_of(shape.type_v);
  return {type,
          groups(shape.v_head_dim) * kGroupRows,
          n,
          tile_of_values(tile, kv_head),
          packed_bytes(type, kKvTile),
          Layout::kPacked};
}

Q8Values KvView::q8_values(int64_t tile, int64_t kv_head) const {
  TANDEM_CHECK(shape.type_v == KvType::kQ8_0, "values in %s", kv_type_name(shape.type_v));
  return {tile_of_values(tile, kv_head)};
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
    std::byte* keys = head_tile(cache.k, s.k_tile_bytes(), s.n_kv_heads, tile, kv_head);
    std::byte* values = head_tile(cache.v, s.v_tile_bytes(), s.n_kv_heads, tile, kv_head);
    const float* key = k + row * s.head_dim;
    const float* value = v + row * s.v_head_dim;
    if (s.type_k == KvType::kQ8_0) {
      store_q8_key(key, s.head_dim, position, k_group, keys);
    } else {
      store(s.type_k, key, s.head_dim, position, 0, 0, 1, k_group, keys);
    }
    if (s.type_v == KvType::kQ8_0) {
      store_q8_value(value, s.v_head_dim, position, values);
    } else {
      store(s.type_v, value, s.v_head_dim, 0, 1, position, 0, v_group, values);
    }
  }
}

}  // namespace tandem
