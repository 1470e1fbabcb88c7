#include "kernels/attention.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

// Keys are taken in the tiles of the cache, which begin at fixed positions, so that the softmax of
// a token is built from the same partial sums in every batch split. Part of the numbers.
static_assert(kKvTile == kRowTile, "the scores of a tile are one tile of products");

// Queries, (token, head of the group) pairs, that share one pass over the keys.
constexpr int64_t kQueryTile = 32;

struct AttentionArgs {
  const KvView& cache;
  const NewTokens& tokens;
  int64_t n_heads;
  int64_t group;  // query heads per KV head
  float scale;
  float* out;
};

// Queries [first, first + n) of one KV head; query i is token i / group, head i % group of the
// KV head's group.
class QueryTile {
 public:
  QueryTile(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t n)
      : args_(args), shape_(args.cache.shape), kv_head_(kv_head), first_(first), n_(n) {
    std::fill_n(max_, n, -std::numeric_limits<float>::infinity());
    std::fill_n(acc_, n * shape_.v_head_dim, 0.0F);
  }

  void run() {
    const int64_t tiles = position(n_ - 1) / kKvTile + 1;
    for (int64_t tile = 0; tile < tiles; ++tile) take_tile(tile, tile + 1 < tiles);
    for (int64_t i = 0; i < n_; ++i) {
      float* out = args_.out + head_index(i) * shape_.v_head_dim;
      const float* acc = acc_ + i * shape_.v_head_dim;
      for (int64_t c = 0; c < shape_.v_head_dim; ++c) out[c] = acc[c] / sum_[i];
    }
  }

 private:
  int64_t position(int64_t i) const { return args_.tokens.first_pos + (first_ + i) / args_.group; }
  int64_t head_index(int64_t i) const {
    const int64_t query = first_ + i;
    return query / args_.group * args_.n_heads + kv_head_ * args_.group + query % args_.group;
  }
  const std::byte* query(int64_t i) const {
    return reinterpret_cast<const std::byte*>(args_.tokens.q + head_index(i) * shape_.head_dim);
  }
  // Positions of the tile that query i sees. Later ones may hold anything, so they are left out
  // rather than given weight 0.
  int64_t seen(int64_t i, int64_t tile) const {
    return std::clamp<int64_t>(position(i) + 1 - tile * kKvTile, 0, kKvTile);
  }

  void take_tile(int64_t tile, bool more) {
    int64_t i = 0;
    while (seen(i, tile) == 0) ++i;
    const WeightView keys = args_.cache.keys(tile, kv_head_);
    // Tasks are mostly handed out in their order: heads one after the other.
    const std::byte* next = more ? args_.cache.keys(tile + 1, kv_head_).data
                                 : args_.cache.keys(0, (kv_head_ + 1) % shape_.n_kv_heads).data;
    dot_tile(
        keys, 0, kKvTile, [&](int64_t t) { return query(i + t); }, n_ - i, scores_,
        args_.cache.values(tile, kv_head_, kKvTile).data);
    for (float* scores = scores_; i < n_;) {
      const int64_t sees = seen(i, tile);
      int64_t end = i + 1;
      while (end < n_ && seen(end, tile) == sees) ++end;
      take_values(tile, sees, i, end - i, scores, next);
      scores += (end - i) * kRowTile;
      i = end;
    }
  }

  // Queries [i, i + n), which see the first n_keys positions of the tile; scores: [n, kRowTile].
  void take_values(int64_t tile, int64_t n_keys, int64_t i, int64_t n, float* scores,
                   const std::byte* next) {
    float decay[kQueryTile];
    for (int64_t t = 0; t < n; ++t) {
      const SoftmaxPart part =
          ops_.softmax(scores + t * kRowTile, n_keys, args_.scale, max_[i + t]);
      decay[t] = part.decay;
      max_[i + t] = part.max;
      sum_[i + t] = sum_[i + t] * part.decay + part.sum;
    }
    const WeightView values = args_.cache.values(tile, kv_head_, n_keys);
    const auto weights_of = [&](int64_t t) {
      return reinterpret_cast<const std::byte*>(scores + t * kRowTile);
    };
    for (int64_t row = 0; row < values.rows; row += kRowTile) {
      const int64_t n_rows = std::min(kRowTile, values.rows - row);
      const bool last = row + n_rows == values.rows;
      dot_tile(values, row, n_rows, weights_of, n, part_,
               last ? next : group_of(values, row + n_rows));
      const int64_t width = std::min(n_rows, shape_.v_head_dim - row);
      for (int64_t t = 0; t < n; ++t) {
        ops_.decay_add(decay[t], part_ + t * kRowTile, width,
                       acc_ + (i + t) * shape_.v_head_dim + row);
      }
    }
  }

  const SimdOps& ops_ = simd();
  const AttentionArgs& args_;
  const KvShape& shape_;
  const int64_t kv_head_;
  const int64_t first_;
  const int64_t n_;
  // The online softmax of each query: exp(score - max) summed over the keys seen so far.
  float max_[kQueryTile];
  float sum_[kQueryTile] = {};
  alignas(64) float scores_[kQueryTile * kRowTile];
  alignas(64) float part_[kQueryTile * kRowTile];
  alignas(64) float acc_[kQueryTile * kMaxHeadDim];  // 64 KiB
};

}  // namespace

void attention(const KvView& cache, const NewTokens& tokens, int64_t n_heads, float scale,
               float* out, ParallelFor parallel) {
  if (tokens.n == 0) return;
  const KvShape& s = cache.shape;
  TANDEM_CHECK(s.head_dim <= kMaxHeadDim && s.v_head_dim <= kMaxHeadDim,
               "heads of %lld and %lld, at most %lld", static_cast<long long>(s.head_dim),
               static_cast<long long>(s.v_head_dim), static_cast<long long>(kMaxHeadDim));
  TANDEM_CHECK(s.n_kv_heads > 0 && n_heads % s.n_kv_heads == 0, "%lld query heads, %lld KV heads",
               static_cast<long long>(n_heads), static_cast<long long>(s.n_kv_heads));
  const int64_t group = n_heads / s.n_kv_heads;
  const AttentionArgs args{cache, tokens, n_heads, group, scale, out};
  const int64_t queries = tokens.n * group;
  const int64_t tiles = (queries + kQueryTile - 1) / kQueryTile;
  const auto append = [&](int64_t kv_head) {
    kv_append(cache, kv_head, tokens.k, tokens.v, tokens.first_pos, tokens.n);
  };
  const auto task = [&](int64_t index) {
    const int64_t kv_head = index % s.n_kv_heads;
    if (tiles == 1) append(kv_head);
    const int64_t first = index / s.n_kv_heads * kQueryTile;
    QueryTile tile(args, kv_head, first, std::min(kQueryTile, queries - first));
    tile.run();
  };
  if (tiles > 1) parallel(s.n_kv_heads, append);
  parallel(tiles * s.n_kv_heads, task);
}

}  // namespace tandem
