#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

// Keys are taken in tiles aligned to absolute positions, so that the softmax of a token is built
// from the same partial sums in every batch split. Part of the numbers.
constexpr int64_t kKeyTile = 32;
// Queries, (token, head of the group) pairs, that share one pass over the keys.
constexpr int64_t kQueryTile = 32;

DType dtype_of(KvType type) { return type == KvType::kF16 ? DType::kF16 : DType::kF32; }

// The online softmax of one query: exp(score - max) summed over the keys seen so far.
struct Softmax {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;

  // Takes n > 0 scores, leaves their weights in place, and returns the factor by which
  // what was summed before must shrink.
  float take(float* scores, int64_t n) {
    const float new_max = std::max(max, *std::max_element(scores, scores + n));
    const float decay = std::exp(max - new_max);
    float tile_sum = 0.0F;
    for (int64_t j = 0; j < n; ++j) {
      scores[j] = std::exp(scores[j] - new_max);
      tile_sum += scores[j];
    }
    sum = sum * decay + tile_sum;
    max = new_max;
    return decay;
  }
};

struct AttentionArgs {
  const KvView& cache;
  const float* q;
  int64_t n_heads;
  int64_t group;  // query heads per KV head
  float scale;
  int64_t first_pos;
  float* out;
};

// Queries [first, first + n) of one KV head; query i is token i / group, head i % group of the
// KV head's group.
class QueryTile {
 public:
  QueryTile(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t n)
      : args_(args), kv_head_(kv_head), first_(first), n_(n) {
    for (int64_t i = 0; i < n; ++i) {
      q_[i] = args.q + head_index(i) * args.cache.head_dim;
      std::fill_n(out_row(i), args.cache.v_head_dim, 0.0F);
    }
  }

  void run() {
    const int64_t last_pos = position(n_ - 1);
    for (int64_t key = 0; key <= last_pos; key += kKeyTile) {
      take_keys(key, std::min(kKeyTile, last_pos + 1 - key));
    }
    for (int64_t i = 0; i < n_; ++i) {
      float* out = out_row(i);
      for (int64_t c = 0; c < args_.cache.v_head_dim; ++c) out[c] /= softmax_[i].sum;
    }
  }

 private:
  int64_t position(int64_t i) const { return args_.first_pos + (first_ + i) / args_.group; }
  int64_t head_index(int64_t i) const {
    const int64_t query = first_ + i;
    return query / args_.group * args_.n_heads + kv_head_ * args_.group + query % args_.group;
  }
  float* out_row(int64_t i) const { return args_.out + head_index(i) * args_.cache.v_head_dim; }

  // rows_: [n, dim] f32 from the cache's positions [first, first + n).
  void load_rows(const std::byte* base, KvType type, int64_t dim, int64_t first, int64_t n) {
    const int64_t row_bytes = dim * kv_type_bytes(type);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t row = (first + j) * args_.cache.n_kv_heads + kv_head_;
      ops_.dequantize(dtype_of(type), base + row * row_bytes, rows_ + j * dim, dim);
    }
  }

  void take_keys(int64_t key, int64_t n_keys) {
    const KvView& cache = args_.cache;
    load_rows(cache.k, cache.type_k, cache.head_dim, key, n_keys);
    std::fill_n(scores_, n_ * kKeyTile, 0.0F);
    ops_.dot(rows_, cache.head_dim, n_keys, q_, n_, cache.head_dim, scores_, kKeyTile);
    load_rows(cache.v, cache.type_v, cache.v_head_dim, key, n_keys);
    for (int64_t i = 0; i < n_; ++i) {
      // Later positions may hold anything, so they are left out rather than given weight 0.
      const int64_t seen = std::min(n_keys, position(i) + 1 - key);
      if (seen <= 0) continue;
      float* scores = scores_ + i * kKeyTile;
      for (int64_t j = 0; j < seen; ++j) scores[j] *= args_.scale;
      const float decay = softmax_[i].take(scores, seen);
      ops_.weighted_sum(scores, seen, rows_, cache.v_head_dim, decay, cache.v_head_dim, out_row(i));
    }
  }

  const SimdOps& ops_ = simd();
  const AttentionArgs& args_;
  const int64_t kv_head_;
  const int64_t first_;
  const int64_t n_;
  Softmax softmax_[kQueryTile];
  const float* q_[kQueryTile];
  alignas(64) float scores_[kQueryTile * kKeyTile];
  alignas(64) float rows_[kKeyTile * kMaxHeadDim];  // 64 KiB, keys and then values of a tile
};

}  // namespace

void kv_append(const KvView& cache, const float* k, const float* v, int64_t first_pos, int64_t n) {
  const SimdOps& ops = simd();
  const auto store = [&](KvType type, std::byte* base, int64_t row, const float* src) {
    std::byte* dst = base + first_pos * row * kv_type_bytes(type);
    if (type == KvType::kF16) {
      ops.store_f16(src, dst, n * row);
    } else if (n * row > 0) {
      std::memcpy(dst, src, static_cast<size_t>(n * row) * sizeof(float));
    }
  };
  store(cache.type_k, cache.k, cache.n_kv_heads * cache.head_dim, k);
  store(cache.type_v, cache.v, cache.n_kv_heads * cache.v_head_dim, v);
}

void attention(const KvView& cache, const float* q, int64_t n_heads, float scale, int64_t first_pos,
               int64_t n, float* out, ParallelFor parallel) {
  if (n == 0) return;
  TANDEM_CHECK(cache.head_dim <= kMaxHeadDim && cache.v_head_dim <= kMaxHeadDim,
               "heads of %lld and %lld, at most %lld", static_cast<long long>(cache.head_dim),
               static_cast<long long>(cache.v_head_dim), static_cast<long long>(kMaxHeadDim));
  TANDEM_CHECK(cache.n_kv_heads > 0 && n_heads % cache.n_kv_heads == 0,
               "%lld query heads, %lld KV heads", static_cast<long long>(n_heads),
               static_cast<long long>(cache.n_kv_heads));
  const int64_t group = n_heads / cache.n_kv_heads;
  const AttentionArgs args{cache, q, n_heads, group, scale, first_pos, out};
  const int64_t queries = n * group;
  const int64_t tiles = (queries + kQueryTile - 1) / kQueryTile;
  const auto task = [&](int64_t index) {
    const int64_t first = index / cache.n_kv_heads * kQueryTile;
    QueryTile tile(args, index % cache.n_kv_heads, first, std::min(kQueryTile, queries - first));
    tile.run();
  };
  parallel(tiles * cache.n_kv_heads, task);
}

}  // namespace tandem
