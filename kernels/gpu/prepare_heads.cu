// From products to attention: heads of queries and keys normalised, limited and turned, values
// limited, keys and values stored in the cache, in one kernel.
#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/kv_cache.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = static_cast<int>(kKvTile);

// Stores a position's key in a head's tile, or its value, by a block of threads. value(i): element
// i of n.
template <KvType kType>
struct Store {
  template <typename F>
  VGPU_DEVICE static void key(uint8_t* tile, int position, int n, const F& value) {
    const int64_t group_bytes = Keys<kType>::group_bytes(n);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      element(tile, group_bytes, position, i, value(i));
    }
  }
  template <typename F>
  VGPU_DEVICE static void value(uint8_t* tile, int position, int n, const F& value) {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      element(tile, GroupOf<kType>::bytes(kTile), i, position, value(i));
    }
  }

 private:
  // Where a packed matrix's row has a column.
  VGPU_DEVICE static void element(uint8_t* matrix, int64_t group_bytes, int row, int col,
                                  float value) {
    uint8_t* group = matrix + row / 16 * group_bytes + row % 16 * 4;
    if (kType == KvType::kF16) {
      store_u16(group + col / 2 * kLineBytes + col % 2 * 2, f32_to_f16(value));
    } else {
      store_u32(group + col * kLineBytes, f32_to_bits(value));
    }
  }
};

// A block of 32 a warp.
template <>
struct Store<KvType::kQ8_0> {
  template <typename F>
  VGPU_DEVICE static void key(uint8_t* tile, int position, int n, const F& value) {
    uint8_t* group = tile + position / 16 * Keys<KvType::kQ8_0>::group_bytes(n);
    const int row = position % 16;
    blocks(n, value, [&](int block, int i, const Q8Value& stored) {
      uint8_t* at = group + block * Format<DType::kQ8_0>::kBytes;
      if (i == 0) store_u16(at + 2 * row, stored.scale);
      at[32 + i / 4 * kLineBytes + 4 * row + i % 4] = stored.q;
    });
  }
  template <typename F>
  VGPU_DEVICE static void value(uint8_t* tile, int position, int n, const F& value) {
    blocks(n, value, [&](int block, int i, const Q8Value& stored) {
      uint8_t* at = tile + block * static_cast<int>(Q8Values::kBlockBytes);
      if (i == 0) store_u16(at + 2 * position, stored.scale);
      at[static_cast<int>(Q8Values::kScaleBytes) +
         i / 16 * static_cast<int>(Q8Values::kGroupBytes) + position / 4 * kLineBytes + i % 16 * 4 +
         position % 4] = stored.q;
    });
  }

 private:
  // f(block, element in it, what it is stored as).
  template <typename Value, typename F>
  VGPU_DEVICE static void blocks(int n, const Value& value, const F& f) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    for (int b = static_cast<int>(threadIdx.x) / kWarpSize; b < n / kWarpSize; b += kWarps) {
      f(b, lane, Q8Value(value(b * kWarpSize + lane)));
    }
  }
};

VGPU_DEVICE float limited(float v, float limit) {
  if (limit <= 0) return v;
  return v > limit ? limit : v < -limit ? -limit : v;
}

// What a head of queries or keys goes through. row: all heads of a token.
struct HeadNorm {
  const float* gain;
  int width;  // of what is normalised together
  float eps;
  float limit;
};

// out = head `head` of `row`, normalised and limited; out: [dim], shared.
VGPU_DEVICE void normalized_head(const float* row, int head, int dim, const HeadNorm& norm,
                                 float* parts, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const float* from = row + head * dim;
  float scale = 1;
  // The gain is a head's, or all heads'.
  const bool whole = norm.width != dim;
  if (norm.gain != nullptr) {
    const float* group = whole ? row : from;
    float squares = 0;
    for (int i = thread; i < norm.width; i += kThreads) squares = fmaf(group[i], group[i], squares);
    squares = warp_sum(squares);
    if (thread % kWarpSize == 0) parts[thread / kWarpSize] = squares;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += parts[w];
    scale = rsqrtf(sum / static_cast<float>(norm.width) + norm.eps);
  }
  const float* gain = norm.gain != nullptr && whole ? norm.gain + head * dim : norm.gain;
  for (int i = thread; i < dim; i += kThreads) {
    const float value = gain != nullptr ? from[i] * scale * gain[i] : from[i];
    out[i] = limited(value, norm.limit);
  }
  __syncthreads();
}

// Element i of a head behind the rotation.
VGPU_DEVICE float turned(const float* head, int i, const float* table, int n_rot, bool halves) {
  if (i >= n_rot) return head[i];
  const int half = n_rot / 2;
  const int pair = halves ? i % half : i / 2;
  const bool second = halves ? i >= half : i % 2 != 0;
  const float a = head[halves ? pair : 2 * pair];
  const float b = head[halves ? pair + half : 2 * pair + 1];
  const float cosine = table[pair];
  const float sine = table[half + pair];
  return second ? a * sine + b * cosine : a * cosine - b * sine;
}

// blockIdx: head of queries, then of keys, then of values; token.
template <KvType kTypeK, KvType kTypeV>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads)
    prepare_heads_kernel(PreparedHeads call, KvCache cache) {
  VGPU_SHARED(float, values, kWidestHead);
  VGPU_SHARED(float, parts, kWarps);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t token = blockIdx.y;
  int head = static_cast<int>(blockIdx.x);
  const float* table = call.rope + token * call.n_rot;
  if (head < call.n_heads) {
    const float* row = call.q + token * call.n_heads * cache.head_dim;
    normalized_head(row, head, cache.head_dim,
                    {call.q_gain, call.q_norm_width, call.eps, call.limit}, parts, values);
    float* to = call.q_out + (token * call.n_heads + head) * cache.head_dim;
    for (int i = thread; i < cache.head_dim; i += kThreads) {
      to[i] = turned(values, i, table, call.n_rot, call.halves);
    }
    return;
  }
  head -= call.n_heads;
  const int first_pos = cache.first_pos != nullptr ? *cache.first_pos : call.first_pos;
  const int position = first_pos + static_cast<int>(token);
  const int at = position % kTile;
  const int64_t tile = static_cast<int64_t>(position / kTile) * cache.n_kv_heads;
  if (head < cache.n_kv_heads) {
    const float* row = call.k + token * cache.n_kv_heads * cache.head_dim;
    normalized_head(row, head, cache.head_dim,
                    {call.k_gain, call.k_norm_width, call.eps, call.limit}, parts, values);
    const int64_t tile_bytes = 4 * Keys<kTypeK>::group_bytes(cache.head_dim);
    Store<kTypeK>::key(cache.k + (tile + head) * tile_bytes, at, cache.head_dim,
                       [&](int i) { return turned(values, i, table, call.n_rot, call.halves); });
    return;
  }
  head -= cache.n_kv_heads;
  const float* from = call.v + (token * cache.n_kv_heads + head) * cache.v_head_dim;
  const int64_t tile_bytes = Values<kTypeV>::tile_bytes(cache.v_head_dim);
  Store<kTypeV>::value(cache.v + (tile + head) * tile_bytes, at, cache.v_head_dim,
                       [&](int i) { return limited(from[i], call.limit); });
}

}  // namespace

void prepare_heads(void* stream, const PreparedHeads& call, const KvCache& cache, int n) {
  if (n == 0) return;
  with_types(cache, [&](auto type_k, auto type_v) {
    VGPU_LAUNCH(
        (prepare_heads_kernel<type_k(), type_v()>),
        dim3(static_cast<unsigned>(call.n_heads + 2 * cache.n_kv_heads), static_cast<unsigned>(n)),
        dim3(kThreads), 0, stream, call, cache);
  });
}

}  // namespace VGPU_NAMESPACE
