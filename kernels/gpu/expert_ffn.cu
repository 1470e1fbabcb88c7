// Routed experts: y = down(silu(gate x) * up x) of each use of an expert by a token, in two kernels
// with the packing of the hidden values between them; all experts of a launch at once.
#include "kernels/gpu/expert_parts.h"
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/pack_block.h"
#include "kernels/gpu/packed_product.h"

namespace VGPU_NAMESPACE {
namespace {

// hidden[use, r] = silu(gate . x) * up . x; blockIdx: group of rows, tile of uses, expert.
template <DType kType, int kTiles>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    expert_hidden_kernel(HiddenPart part, ExpertCalls calls, PackedX x, const int* tokens, int ff,
                         float* hidden) {
  VGPU_SHARED(GroupSums<kTiles>, parts, kProductWarps);
  VGPU_SHARED(GroupSums<kTiles>, gate, 1);
  VGPU_SHARED(GroupSums<kTiles>, up, 1);
  const ExpertUses expert = expert_of(calls, blockIdx.z);
  const int group = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(blockIdx.y) * GroupSums<kTiles>::kTokens;
  if (first >= expert.n_uses || group * 16 >= expert.gate.rows) return;
  const TokenList list{tokens != nullptr ? tokens + expert.first_use : nullptr, expert.n_uses};
  if (part != HiddenPart::kUp) {
    group_product<kType, kTiles>(expert.gate, group, x, list, first, parts, gate);
  }
  if (part != HiddenPart::kGate) {
    group_product<kType, kTiles>(expert.up, group, x, list, first, parts, up);
  }
  for (int i = static_cast<int>(threadIdx.x); i < 16 * GroupSums<kTiles>::kTokens;
       i += kProductThreads) {
    const int use = first + i / 16;
    const int row = group * 16 + i % 16;
    if (use >= expert.n_uses || row >= expert.gate.rows) continue;
    float* to = hidden + static_cast<int64_t>(expert.first_use + use) * ff + row;
    *to = hidden_value(part, gate->of[i / 16][i % 16], up->of[i / 16][i % 16],
                       part == HiddenPart::kUp ? *to : 0.0F);
  }
}

// out[use, r] = down . hidden[use], of uses from `first` on; x: rows of the expert's uses.
template <DType kType, int kTiles>
VGPU_DEVICE void write_output(const PackedWeights& down, const PackedX& x, int n_uses, int first,
                              float* out) {
  VGPU_SHARED(GroupSums<kTiles>, parts, kProductWarps);
  VGPU_SHARED(GroupSums<kTiles>, sums, 1);
  const int group = static_cast<int>(blockIdx.x);
  group_product<kType, kTiles>(down, group, x, {nullptr, n_uses}, first, parts, sums);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * GroupSums<kTiles>::kTokens;
       i += kProductThreads) {
    const int use = first + i / 16;
    const int row = group * 16 + i % 16;
    if (use >= n_uses || row >= down.rows) continue;
    out[static_cast<int64_t>(use) * down.rows + row] = sums->of[i / 16][i % 16];
  }
}

// blockIdx: group of rows, tile of uses, expert.
template <DType kType, int kTiles>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    expert_output_kernel(ExpertCalls calls, PackedX hidden, int d, float* out) {
  const ExpertUses expert = expert_of(calls, blockIdx.z);
  const int first = static_cast<int>(blockIdx.y) * GroupSums<kTiles>::kTokens;
  if (first >= expert.n_uses) return;
  const int64_t offset = expert.first_use;
  const PackedX rows{hidden.rows + offset * hidden.stride, hidden.stride, hidden.cols};
  write_output<kType, kTiles>(expert.down, rows, expert.n_uses, first, out + offset * d);
}

// blockIdx: group of rows, 0, expert. Every block packs all hidden values of its expert.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kProductThreads)
    expert_output_few_kernel(ExpertCalls calls, const float* hidden, int ff, int stride, int d,
                             float* out) {
  VGPU_DYNAMIC_SHARED(uint8_t, rows);
  const ExpertUses expert = expert_of(calls, blockIdx.z);
  if (expert.n_uses == 0) return;
  const int64_t offset = expert.first_use;
  for (int u = 0; u < expert.n_uses; ++u) {
    pack_row<kProductThreads>(kXKind<kType>, hidden + (offset + u) * ff, ff, rows + u * stride);
  }
  __syncthreads();
  write_output<kType, 1>(expert.down, {rows, stride, ff}, expert.n_uses, 0, out + offset * d);
}

struct Grid {
  dim3 of;
  bool many;
};

Grid grid_of(const ExpertCalls& calls, int rows) {
  const bool many = calls.most_uses >= kManyTokens;
  const unsigned tile = many ? 16 : 8;
  return {dim3(static_cast<unsigned>(rows + 15) / 16,
               (static_cast<unsigned>(calls.most_uses) + tile - 1) / tile,
               static_cast<unsigned>(calls.n_experts)),
          many};
}

}  // namespace

void expert_hidden(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                   const PackedX& x, const int* tokens, int ff, float* hidden) {
  if (calls.n_experts == 0 || calls.most_uses == 0) return;
  const Grid grid = grid_of(calls, ff);
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      if (calls.most_uses >= kTileFrom) {
        expert_hidden_tiles(stream, kType, part, calls, x, tokens, ff, hidden);
        return;
      }
    }
    if (grid.many) {
      VGPU_LAUNCH((expert_hidden_kernel<kType, 2>), grid.of, dim3(kProductThreads), 0, stream, part,
                  calls, x, tokens, ff, hidden);
    } else {
      VGPU_LAUNCH((expert_hidden_kernel<kType, 1>), grid.of, dim3(kProductThreads), 0, stream, part,
                  calls, x, tokens, ff, hidden);
    }
  });
}

void expert_output(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden, int d,
                   float* out) {
  if (calls.n_experts == 0 || calls.most_uses == 0) return;
  const Grid grid = grid_of(calls, d);
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      if (calls.most_uses >= kTileFrom) {
        expert_output_tiles(stream, kType, calls, hidden, d, out);
        return;
      }
    }
    if (grid.many) {
      VGPU_LAUNCH((expert_output_kernel<kType, 2>), grid.of, dim3(kProductThreads), 0, stream,
                  calls, hidden, d, out);
    } else {
      VGPU_LAUNCH((expert_output_kernel<kType, 1>), grid.of, dim3(kProductThreads), 0, stream,
                  calls, hidden, d, out);
    }
  });
}

void expert_output_few(void* stream, DType type, const ExpertCalls& calls, const float* hidden,
                       int ff, int stride, int d, float* out) {
  if (calls.n_experts == 0 || calls.most_uses == 0) return;
  const Grid grid = grid_of(calls, d);
  with_type(type, [&](auto constant) {
    VGPU_LAUNCH(expert_output_few_kernel<constant()>, grid.of, dim3(kProductThreads),
                static_cast<size_t>(calls.most_uses) * static_cast<size_t>(stride), stream, calls,
                hidden, ff, stride, d, out);
  });
}

}  // namespace VGPU_NAMESPACE
