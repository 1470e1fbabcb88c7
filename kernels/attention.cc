#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

// Keys are taken in the tiles of the cache, and tiles in spans, which begin at fixed positions, so
// that the softmax of a token is built from the same partial sums in every batch split. Part of the
// numbers.
static_assert(kKvTile == kRowTile, "the scores of a tile are one tile of products");
constexpr int64_t kSpanTiles = 8;
constexpr int64_t kSpan = kSpanTiles * kKvTile;

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

// A softmax over some keys, not yet divided: weights are exp(score - max), sum is theirs, and the
// weighted sum of values is kept elsewhere.
struct Softmax {
  float max;
  float sum;
};

// Adds what further keys make of a query; acc, part: [n], the weighted sums of values.
void join(const Softmax& more, const float* part, int64_t n, Softmax* all, float* acc) {
  const float max = std::max(all->max, more.max);
  const float decay = std::exp(all->max - max);
  const float share = std::exp(more.max - max);
  all->max = max;
  all->sum = all->sum * decay + more.sum * share;
  for (int64_t c = 0; c < n; ++c) acc[c] = acc[c] * decay + part[c] * share;
}

// Some queries of one KV head; query i is token i / group, head i % group of the KV head's group.
struct Queries {
  const AttentionArgs& args;
  int64_t kv_head;
  int64_t first;
  int64_t n;

  int64_t position(int64_t i) const { return args.tokens.first_pos + (first + i) / args.group; }
  // Of the last one's keys.
  int64_t spans() const { return position(n - 1) / kSpan + 1; }
  // The first that sees the span.
  int64_t first_in(int64_t span) const {
    return std::max<int64_t>((span * kSpan - args.tokens.first_pos) * args.group - first, 0);
  }
  int64_t head_index(int64_t i) const {
    const int64_t query = first + i;
    return query / args.group * args.n_heads + kv_head * args.group + query % args.group;
  }
  float* out(int64_t i) const { return args.out + head_index(i) * args.cache.shape.v_head_dim; }
};

// A query as keys in kQ8_0 take it, rounded to int8: bytes of the longest.
constexpr int64_t kPackedQuery = kMaxHeadDim + kMaxHeadDim / 32 * 8 + 64;

// The span's part of at most kQueryTile queries.
class SpanTile {
 public:
  SpanTile(const Queries& queries, int64_t span)
      : queries_(queries),
        args_(queries.args),
        shape_(args_.cache.shape),
        kv_head_(queries.kv_head),
        n_(queries.n),
        first_(queries.first_in(span)) {
    const Softmax nothing{-std::numeric_limits<float>::infinity(), 0};
    std::fill(softmax_ + first_, softmax_ + n_, nothing);
    std::fill(acc_ + first_ * shape_.v_head_dim, acc_ + n_ * shape_.v_head_dim, 0.0F);
    pack_queries();
    const int64_t end = std::min((span + 1) * kSpanTiles, queries.position(n_ - 1) / kKvTile + 1);
    for (int64_t tile = span * kSpanTiles; tile < end; ++tile) take_tile(tile, tile + 1 < end);
  }

  // From here on queries see the span.
  int64_t first() const { return first_; }
  const Softmax& softmax(int64_t i) const { return softmax_[i]; }
  const float* sums(int64_t i) const { return acc_ + i * shape_.v_head_dim; }

 private:
  const float* query(int64_t i) const {
    return args_.tokens.q + queries_.head_index(i) * shape_.head_dim;
  }
  // As products with keys take them.
  void pack_queries() {
    const XKind kind = x_kind(args_.cache.keys(0, kv_head_).type);
    packed_bytes_ = kind == XKind::kFloat ? 0 : x_bytes(kind, shape_.head_dim);
    TANDEM_CHECK(packed_bytes_ <= kPackedQuery, "%lld bytes",
                 static_cast<long long>(packed_bytes_));
    if (packed_bytes_ == 0) return;
    for (int64_t i = first_; i < n_; ++i) {
      pack_x(kind, query(i), shape_.head_dim, packed_ + i * packed_bytes_);
    }
  }
  const std::byte* packed_query(int64_t i) const {
    return packed_bytes_ > 0 ? packed_ + i * packed_bytes_
                             : reinterpret_cast<const std::byte*>(query(i));
  }
  // Positions of the tile that query i sees. Later ones may hold anything, so they are left out
  // rather than given weight 0.
  int64_t seen(int64_t i, int64_t tile) const {
    return std::clamp<int64_t>(queries_.position(i) + 1 - tile * kKvTile, 0, kKvTile);
  }

  void take_tile(int64_t tile, bool more) {
    int64_t i = first_;
    while (seen(i, tile) == 0) ++i;
    const WeightView keys = args_.cache.keys(tile, kv_head_);
    // Tasks are mostly handed out in their order: heads one after the other.
    const std::byte* next = more ? args_.cache.keys(tile + 1, kv_head_).data
                                 : args_.cache.keys(0, (kv_head_ + 1) % shape_.n_kv_heads).data;
    dot_tile(
        keys, 0, kKvTile, [&](int64_t t) { return packed_query(i + t); }, n_ - i, scores_,
        args_.cache.tile_of_values(tile, kv_head_));
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
      Softmax& softmax = softmax_[i + t];
      const SoftmaxPart part =
          ops_.softmax(scores + t * kRowTile, n_keys, args_.scale, softmax.max);
      decay[t] = part.decay;
      softmax.max = part.max;
      softmax.sum = softmax.sum * part.decay + part.sum;
    }
    if (shape_.type_v == KvType::kQ8_0) {
      add_q8_values(tile, n_keys, i, n, scores, decay, next);
    } else {
      add_values(tile, n_keys, i, n, scores, decay, next);
    }
  }

  // The sums of queries [i, i + n) decay, and more is added; weights: [n, kRowTile], of n_keys.
  void add_values(int64_t tile, int64_t n_keys, int64_t i, int64_t n, const float* weights,
                  const float* decay, const std::byte* next) {
    const WeightView values = args_.cache.values(tile, kv_head_, n_keys);
    const auto weights_of = [&](int64_t t) {
      return reinterpret_cast<const std::byte*>(weights + t * kRowTile);
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

  // Scales are of positions, so weights are multiplied with them, anew for each 32 rows. Behind
  // n_keys, up to whole lines, weights are 0 and the int8 may be any.
  void add_q8_values(int64_t tile, int64_t n_keys, int64_t i, int64_t n, const float* weights,
                     const float* decay, const std::byte* next) {
    const Q8Values values = args_.cache.q8_values(tile, kv_head_);
    const int64_t n_blocks = shape_.v_head_dim / Q8Values::kRows;
    const int64_t cols = (n_keys + 3) / 4 * 4;
    const std::byte* x[kQueryTile];
    for (int64_t t = 0; t < n; ++t) {
      x[t] = reinterpret_cast<const std::byte*>(scaled_ + t * kKvTile);
    }
    for (int64_t b = 0; b < n_blocks; ++b) {
      alignas(64) float scales[kKvTile];
      ops_.dequantize(DType::kF16, values.scales(b), scales, n_keys);
      for (int64_t t = 0; t < n; ++t) {
        float* scaled = scaled_ + t * kKvTile;
        for (int64_t j = 0; j < n_keys; ++j) scaled[j] = weights[t * kRowTile + j] * scales[j];
        std::fill(scaled + n_keys, scaled + cols, 0.0F);
        std::fill_n(part_ + t * kRowTile, Q8Values::kRows, 0.0F);
      }
      ops_.dot_int8(values.groups(b), Q8Values::kGroupBytes,
                    b + 1 < n_blocks ? values.groups(b + 1) : next, cols, x, n, part_, kRowTile);
      for (int64_t t = 0; t < n; ++t) {
        ops_.decay_add(decay[t], part_ + t * kRowTile, Q8Values::kRows,
                       acc_ + (i + t) * shape_.v_head_dim + b * Q8Values::kRows);
      }
    }
  }

  const SimdOps& ops_ = simd();
  const Queries& queries_;
  const AttentionArgs& args_;
  const KvShape& shape_;
  const int64_t kv_head_;
  const int64_t n_;
  const int64_t first_;
  // Of each query, over the keys taken so far.
  Softmax softmax_[kQueryTile];
  alignas(64) float scores_[kQueryTile * kRowTile];
  alignas(64) float part_[kQueryTile * kRowTile];
  alignas(64) float acc_[kQueryTile * kMaxHeadDim];  // 64 KiB
  alignas(64) float scaled_[kQueryTile * kKvTile];   // weights times scales of values
  int64_t packed_bytes_ = 0;                         // of a query; 0: they are taken as they are
  alignas(64) std::byte packed_[kQueryTile * kPackedQuery];
};

// All keys of some queries in one task, span by span.
void attend(const Queries& queries) {
  const int64_t width = queries.args.cache.shape.v_head_dim;
  Softmax all[kQueryTile];
  for (int64_t span = 0; span < queries.spans(); ++span) {
    const SpanTile tile(queries, span);
    for (int64_t i = tile.first(); i < queries.n; ++i) {
      if (span > 0) {
        join(tile.softmax(i), tile.sums(i), width, &all[i], queries.out(i));
      } else {
        all[i] = tile.softmax(i);
        std::copy_n(tile.sums(i), width, queries.out(i));
      }
    }
  }
  for (int64_t i = 0; i < queries.n; ++i) {
    for (int64_t c = 0; c < width; ++c) queries.out(i)[c] /= all[i].sum;
  }
}

// The parts that tasks for single spans leave for the task that joins them.
class SpanParts {
 public:
  SpanParts(const Queries& queries, int64_t n_kv_heads, Workspace& scratch)
      : spans_(queries.spans()), n_(queries.n), width_(queries.args.cache.shape.v_head_dim) {
    const int64_t n_parts = n_kv_heads * spans_ * n_;
    const int64_t softmax_bytes = n_parts * static_cast<int64_t>(sizeof(Softmax));
    std::byte* memory =
        scratch.at_least(softmax_bytes + n_parts * width_ * static_cast<int64_t>(sizeof(float)));
    softmax_ = reinterpret_cast<Softmax*>(memory);
    sums_ = reinterpret_cast<float*>(memory + softmax_bytes);
  }

  void keep(const Queries& queries, int64_t span) {
    const SpanTile tile(queries, span);
    for (int64_t i = tile.first(); i < n_; ++i) {
      const int64_t at = index(queries, span, i);
      softmax_[at] = tile.softmax(i);
      std::copy_n(tile.sums(i), width_, sums_ + at * width_);
    }
  }

  // The same operations in the same order as attend().
  void join_all(const Queries& queries) const {
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t at = index(queries, 0, i);
      Softmax all = softmax_[at];
      float* out = queries.out(i);
      std::copy_n(sums_ + at * width_, width_, out);
      for (int64_t span = 1; span < spans_ && i >= queries.first_in(span); ++span) {
        const int64_t more = index(queries, span, i);
        join(softmax_[more], sums_ + more * width_, width_, &all, out);
      }
      for (int64_t c = 0; c < width_; ++c) out[c] /= all.sum;
    }
  }

 private:
  int64_t index(const Queries& queries, int64_t span, int64_t i) const {
    return (queries.kv_head * spans_ + span) * n_ + i;
  }

  int64_t spans_;
  int64_t n_;
  int64_t width_;
  Softmax* softmax_;
  float* sums_;
};

// Stores the new tokens at positions [first, end).
void append(const KvView& cache, const NewTokens& tokens, int64_t kv_head, int64_t first,
            int64_t end) {
  const int64_t from = std::max(first, tokens.first_pos);
  const int64_t n = std::min(end, tokens.first_pos + tokens.n) - from;
  if (n <= 0) return;
  const int64_t row = (from - tokens.first_pos) * cache.shape.n_kv_heads;
  kv_append(cache, kv_head, tokens.k + row * cache.shape.head_dim,
            tokens.v + row * cache.shape.v_head_dim, from, n);
}

}  // namespace

void attention(const KvView& cache, const NewTokens& tokens, int64_t n_heads, float scale,
               float* out, Workspace& scratch, ParallelFor parallel) {
  if (tokens.n == 0) return;
  const KvShape& s = cache.shape;
  TANDEM_CHECK(s.head_dim <= kMaxHeadDim && s.v_head_dim <= kMaxHeadDim,
               "heads of %lld and %lld, at most %lld", static_cast<long long>(s.head_dim),
               static_cast<long long>(s.v_head_dim), static_cast<long long>(kMaxHeadDim));
  TANDEM_CHECK(
      s.head_dim % kv_type_block(s.type_k) == 0 && s.v_head_dim % kv_type_block(s.type_v) == 0,
      "heads of %lld and %lld in %s and %s", static_cast<long long>(s.head_dim),
      static_cast<long long>(s.v_head_dim), kv_type_name(s.type_k), kv_type_name(s.type_v));
  TANDEM_CHECK(s.n_kv_heads > 0 && n_heads % s.n_kv_heads == 0, "%lld query heads, %lld KV heads",
               static_cast<long long>(n_heads), static_cast<long long>(s.n_kv_heads));
  const int64_t group = n_heads / s.n_kv_heads;
  const AttentionArgs args{cache, tokens, n_heads, group, scale, out};
  const int64_t n_queries = tokens.n * group;
  const int64_t end = tokens.first_pos + tokens.n;

  if (n_queries > kQueryTile) {
    parallel(s.n_kv_heads, [&](int64_t kv_head) { append(cache, tokens, kv_head, 0, end); });
    const int64_t tiles = (n_queries + kQueryTile - 1) / kQueryTile;
    parallel(tiles * s.n_kv_heads, [&](int64_t task) {
      const int64_t first = task / s.n_kv_heads * kQueryTile;
      attend({args, task % s.n_kv_heads, first, std::min(kQueryTile, n_queries - first)});
    });
    return;
  }
  const auto queries = [&](int64_t kv_head) { return Queries{args, kv_head, 0, n_queries}; };
  if (end <= kSpan) {
    parallel(s.n_kv_heads, [&](int64_t kv_head) {
      append(cache, tokens, kv_head, 0, end);
      attend(queries(kv_head));
    });
    return;
  }
  SpanParts parts(queries(0), s.n_kv_heads, scratch);
  parallel(queries(0).spans() * s.n_kv_heads, [&](int64_t task) {
    const int64_t kv_head = task % s.n_kv_heads;
    const int64_t span = task / s.n_kv_heads;
    append(cache, tokens, kv_head, span * kSpan, (span + 1) * kSpan);
    parts.keep(queries(kv_head), span);
  });
  parallel(s.n_kv_heads, [&](int64_t kv_head) { parts.join_all(queries(kv_head)); });
}

}  // namespace tandem
