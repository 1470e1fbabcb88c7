// Causal attention with grouped query heads, a tile of 64 keys at a time, softmax as it goes (Dao
// et al., arXiv 2205.14135). Queries that share a KV head are columns: eight (token, head) pairs a
// block of threads, whose four warps take 16 keys of a tile each, and then 16 values each.

#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/kv_cache.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kColumns = kAttentionColumns;
constexpr int kTile = static_cast<int>(kKvTile);
constexpr int kTileStride = kTile + 4;

struct Queries {
  const float* q;
  int first_pos;
  int n;
  int n_heads;
  float scale;
  int spans;
  float* scratch;
  float* out;
  int row_bytes;  // of a query in shared memory
};

// Where results of a span go: outputs that are not yet divided, largest scores, sums.
struct SpanResults {
  float* out;   // [n, n_heads, v_head_dim]
  float* most;  // [n, n_heads]
  float* sum;   // [n, n_heads]
  VGPU_DEVICE SpanResults(const Queries& queries, int v_head_dim, int span) {
    const int64_t heads = static_cast<int64_t>(queries.n) * queries.n_heads;
    out = queries.scratch + span * heads * v_head_dim;
    most = queries.scratch + queries.spans * heads * v_head_dim + span * heads;
    sum = most + queries.spans * heads;
  }
};

constexpr float kNothing =
    -3.4e38F;  // below every score; not infinite, so that differences are numbers

// blockIdx: eight columns, KV head, span. kGroups: 16 * kWarps * kGroups >= v_head_dim.
template <KvType kTypeK, KvType kTypeV, int kGroups>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads) attention_kernel(KvCache cache, Queries queries) {
  VGPU_DYNAMIC_SHARED(uint8_t, q);  // [kColumns] rows, as keys want them
  VGPU_SHARED(float, weights, kColumns* kTileStride);
  VGPU_SHARED(float, warp_most, kWarps* kColumns);
  VGPU_SHARED(float, warp_sum_of, kWarps* kColumns);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const Lane lane;
  const int per_kv = queries.n_heads / cache.n_kv_heads;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int n_columns = queries.n * per_kv;
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  // Columns behind the last are the last again.
  const auto column_at = [&](int c) {
    return first_column + c < n_columns ? first_column + c : n_columns - 1;
  };
  const auto head_row = [&](int c) {  // of q and out
    const int column = column_at(c);
    return static_cast<int64_t>(column / per_kv) * queries.n_heads + kv_head * per_kv +
           column % per_kv;
  };

  Keys<kTypeK>::template put_queries<kWarps>(
      [&](int c) { return queries.q + head_row(c) * cache.head_dim; }, cache.head_dim, q,
      queries.row_bytes);
  const int first_pos = cache.first_pos != nullptr ? *cache.first_pos : queries.first_pos;
  // The last position that a lane's two columns see.
  int last[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) last[i] = first_pos + column_at(2 * lane.t + i) / per_kv;
  const int n_positions = first_pos + column_at(kColumns - 1) / per_kv + 1;

  const int64_t k_group = Keys<kTypeK>::group_bytes(cache.head_dim);
  const int64_t v_tile = Values<kTypeV>::tile_bytes(cache.v_head_dim);
  const int v_groups = (cache.v_head_dim + 15) / 16;
  float acc[kGroups][4] = {};
  float most[2] = {kNothing, kNothing};
  float sum[2] = {};
  const int tiles = (first_pos + queries.n + kTile - 1) / kTile;
  const int span_tiles = (tiles + queries.spans - 1) / queries.spans;
  const int first_tile = static_cast<int>(blockIdx.z) * span_tiles;
  __syncthreads();
  for (int tile = first_tile; tile < first_tile + span_tiles && tile * kTile < n_positions;
       ++tile) {
    const int64_t head_tile = static_cast<int64_t>(tile) * cache.n_kv_heads + kv_head;
    const int left = n_positions - tile * kTile;
    float score[4] = {};
    if (16 * warp < left) {
      Keys<kTypeK>::product(cache.k + head_tile * 4 * k_group + warp * k_group, q,
                            queries.row_bytes, cache.head_dim, score);
    }
    bool seen[4];
    float tile_most[2] = {kNothing, kNothing};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = tile * kTile + 16 * warp + lane.g + i / 2 * 8;
      seen[i] = position <= last[i % 2];
      score[i] *= queries.scale;
      if (seen[i]) tile_most[i % 2] = fmaxf(tile_most[i % 2], score[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for (int offset = 4; offset < kWarpSize; offset *= 2) {
        tile_most[i] = fmaxf(tile_most[i], __shfl_xor_sync(kAllLanes, tile_most[i], offset));
      }
      if (lane.g == 0) warp_most[warp * kColumns + 2 * lane.t + i] = tile_most[i];
    }
    __syncthreads();
    float decay[2];
    float part[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float now = most[i];
      for (int w = 0; w < kWarps; ++w) now = fmaxf(now, warp_most[w * kColumns + 2 * lane.t + i]);
      decay[i] = expf(most[i] - now);
      most[i] = now;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float weight = seen[i] ? expf(score[i] - most[i % 2]) : 0.0F;
      part[i % 2] += weight;
      weights[(2 * lane.t + i % 2) * kTileStride + 16 * warp + lane.g + i / 2 * 8] = weight;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for (int offset = 4; offset < kWarpSize; offset *= 2) {
        part[i] += __shfl_xor_sync(kAllLanes, part[i], offset);
      }
      if (lane.g == 0) warp_sum_of[warp * kColumns + 2 * lane.t + i] = part[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] *= decay[i];
      for (int w = 0; w < kWarps; ++w) sum[i] += warp_sum_of[w * kColumns + 2 * lane.t + i];
    }
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int group = j * kWarps + warp;
      if (group >= v_groups) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[j][i] *= decay[i % 2];
      Values<kTypeV>::product(cache.v + head_tile * v_tile, group, weights, kTileStride,
                              left < kTile ? left : kTile, acc[j]);
    }
  }

  const bool partial = queries.spans > 1;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int c = 2 * lane.t + i;
    if (first_column + c >= n_columns) continue;
    const int64_t row = head_row(c);
    float* out = queries.out + row * cache.v_head_dim;
    if (partial) {
      const SpanResults results(queries, cache.v_head_dim, static_cast<int>(blockIdx.z));
      out = results.out + row * cache.v_head_dim;
      if (warp == 0 && lane.g == 0) {
        results.most[row] = most[i];
        results.sum[row] = sum[i];
      }
    }
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int dim = (j * kWarps + warp) * 16 + lane.g + 8 * half;
        if (dim >= cache.v_head_dim) continue;
        const float value = acc[j][2 * half + i];
        out[dim] = partial ? value : value / sum[i];
      }
    }
  }
}

// blockIdx.x: token and head.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads) join_spans_kernel(Queries queries, int v_head_dim) {
  const int64_t row = blockIdx.x;
  float most = kNothing;
  for (int s = 0; s < queries.spans; ++s) {
    most = fmaxf(most, SpanResults(queries, v_head_dim, s).most[row]);
  }
  float sum = 0;
  for (int s = 0; s < queries.spans; ++s) {
    const SpanResults span(queries, v_head_dim, s);
    sum = fmaf(span.sum[row], expf(span.most[row] - most), sum);
  }
  for (int dim = static_cast<int>(threadIdx.x); dim < v_head_dim; dim += kThreads) {
    float value = 0;
    for (int s = 0; s < queries.spans; ++s) {
      const SpanResults span(queries, v_head_dim, s);
      value = fmaf(span.out[row * v_head_dim + dim], expf(span.most[row] - most), value);
    }
    queries.out[row * v_head_dim + dim] = value / sum;
  }
}

template <int kGroups>
void launch(void* stream, const KvCache& cache, const Queries& queries) {
  const int columns = queries.n * (queries.n_heads / cache.n_kv_heads);
  const dim3 grid(static_cast<unsigned>(columns + kColumns - 1) / kColumns,
                  static_cast<unsigned>(cache.n_kv_heads), static_cast<unsigned>(queries.spans));
  const size_t shared = kColumns * static_cast<size_t>(queries.row_bytes);
  with_types(cache, [&](auto type_k, auto type_v) {
    VGPU_LAUNCH((attention_kernel<type_k(), type_v(), kGroups>), grid, dim3(kThreads), shared,
                stream, cache, queries);
  });
}

}  // namespace

void attention(void* stream, const KvCache& cache, const float* q, int first_pos, int n,
               int n_heads, float scale, float* scratch, float* out) {
  if (n == 0) return;
  const Queries queries{q,       first_pos, n,
                        n_heads, scale,     attention_spans(first_pos, n),
                        scratch, out,       query_bytes(cache.type_k, cache.head_dim)};
  // 16 * kWarps values a group.
  if (cache.v_head_dim <= 64) {
    launch<1>(stream, cache, queries);
  } else if (cache.v_head_dim <= 128) {
    launch<2>(stream, cache, queries);
  } else if (cache.v_head_dim <= 256) {
    launch<4>(stream, cache, queries);
  } else {
    launch<8>(stream, cache, queries);
  }
  if (queries.spans > 1) {
    VGPU_LAUNCH(join_spans_kernel, dim3(static_cast<unsigned>(n * n_heads)), dim3(kThreads), 0,
                stream, queries, cache.v_head_dim);
  }
}

}  // namespace VGPU_NAMESPACE
