// expert_hidden() and expert_output() of many uses.
#include "kernels/gpu/expert_parts.h"
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/tile_product.h"

namespace VGPU_NAMESPACE {
namespace {

// hidden[use, r] = silu(gate . x) * up . x; blockIdx: tile of uses, four groups of rows, expert.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS_2(kProductThreads)
    expert_hidden_tile_kernel(HiddenPart part, ExpertCalls calls, PackedX x, const int* tokens,
                              int ff, float* hidden) {
  VGPU_SHARED(TokenChunks, chunks, 1);
  const ExpertUses expert = expert_of(calls, blockIdx.z);
  const int first = static_cast<int>(blockIdx.x) * kTileTokens;
  const int first_group = static_cast<int>(blockIdx.y) * kProductWarps;
  if (first >= expert.n_uses || first_group * 16 >= expert.gate.rows) return;
  const int group = first_group + static_cast<int>(threadIdx.x) / kWarpSize;
  const auto blocks = [&](const PackedWeights& w, HiddenPart other) -> const uint8_t* {
    return group * 16 < w.rows && part != other ? w.data + group * w.group_stride : nullptr;
  };
  const WarpGroups<2> both{
      {blocks(expert.gate, HiddenPart::kUp), blocks(expert.up, HiddenPart::kGate)}, x.cols};
  const TokenList list{tokens != nullptr ? tokens + expert.first_use : nullptr, expert.n_uses};
  with_tiles(expert.n_uses - first, [&](auto constant) {
    constexpr int kTiles = decltype(constant)::value;
    float acc[2][kTiles][4] = {};
    tile_product<kType, kTiles, 2>(both, x, list, first, chunks, acc);
    for_fragment<kTiles>([&](int i, int r, int t) {
      const int row = group * 16 + r;
      if (first + t >= expert.n_uses || row >= expert.gate.rows) return;
      float* to = hidden + static_cast<int64_t>(expert.first_use + first + t) * ff + row;
      *to = hidden_value(part, acc[0][i / 4][i % 4], acc[1][i / 4][i % 4],
                         part == HiddenPart::kUp ? *to : 0.0F);
    });
  });
}

// out[use, r] = down . hidden[use]; blockIdx: tile of uses, four groups of rows, expert.
template <DType kType>
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS_2(kProductThreads)
    expert_output_tile_kernel(ExpertCalls calls, PackedX hidden, int d, float* out) {
  VGPU_SHARED(TokenChunks, chunks, 1);
  const ExpertUses expert = expert_of(calls, blockIdx.z);
  const int first = static_cast<int>(blockIdx.x) * kTileTokens;
  if (first >= expert.n_uses) return;
  const int group =
      static_cast<int>(blockIdx.y) * kProductWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  const PackedWeights& down = expert.down;
  const bool mine = group * 16 < down.rows;
  const int64_t offset = expert.first_use;
  const PackedX x{hidden.rows + offset * hidden.stride, hidden.stride, hidden.cols};
  with_tiles(expert.n_uses - first, [&](auto constant) {
    constexpr int kTiles = decltype(constant)::value;
    float acc[1][kTiles][4] = {};
    tile_product<kType, kTiles, 1>(
        {{mine ? down.data + group * down.group_stride : nullptr}, down.cols}, x,
        {nullptr, expert.n_uses}, first, chunks, acc);
    for_fragment<kTiles>([&](int i, int r, int t) {
      const int row = group * 16 + r;
      if (first + t >= expert.n_uses || row >= down.rows) return;
      out[(offset + first + t) * d + row] = acc[0][i / 4][i % 4];
    });
  });
}

dim3 tile_grid(const ExpertCalls& calls, int rows) {
  return {(static_cast<unsigned>(calls.most_uses) + kTileTokens - 1) / kTileTokens,
          (static_cast<unsigned>(rows) + 16 * kProductWarps - 1) / (16 * kProductWarps),
          static_cast<unsigned>(calls.n_experts)};
}

}  // namespace

void expert_hidden_tiles(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                         const PackedX& x, const int* tokens, int ff, float* hidden) {
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      VGPU_LAUNCH(expert_hidden_tile_kernel<kType>, tile_grid(calls, ff), dim3(kProductThreads), 0,
                  stream, part, calls, x, tokens, ff, hidden);
    }
  });
}

void expert_output_tiles(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden,
                         int d, float* out) {
  with_type(type, [&](auto constant) {
    constexpr DType kType = constant();
    if constexpr (kTiled<kType>) {
      VGPU_LAUNCH(expert_output_tile_kernel<kType>, tile_grid(calls, d), dim3(kProductThreads), 0,
                  stream, calls, hidden, d, out);
    }
  });
}

}  // namespace VGPU_NAMESPACE
