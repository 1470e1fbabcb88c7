// What stands between two groups of products: a token's residual gets what they gave, is
// normalised, and the result packed, in one kernel.
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/pack_block.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

VGPU_DEVICE float with_addend(float value, const Addend& addend, int64_t token, int64_t at) {
  if (addend.x == nullptr) return value;
  const float scale = addend.gate != nullptr ? 1.0F / (1.0F + expf(-addend.gate[token])) : 1.0F;
  return fmaf(scale, addend.x[at], value);
}

// A block of threads a token.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads) residual_norm_kernel(ResidualNorm call, int d) {
  VGPU_DYNAMIC_SHARED(float, row);  // [d]
  VGPU_SHARED(float, parts, kWarps);
  const int64_t token = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  float* y = call.y + token * d;
  const bool adds =
      call.out != nullptr || call.addends[0].x != nullptr || call.addends[1].x != nullptr;
  float squares = 0;
  for (int c = thread; c < d; c += kThreads) {
    const int64_t at = token * d + c;
    float value = y[c];
    if (adds) {
      value = with_addend(value, call.addends[0], token, at);
      if (call.out != nullptr) {
        for (int i = call.uses.begin[token]; i < call.uses.begin[token + 1]; ++i) {
          const int use = call.uses.uses[i];
          value = fmaf(call.uses.weights[use], call.out[static_cast<int64_t>(use) * d + c], value);
        }
      }
      value = with_addend(value, call.addends[1], token, at);
      y[c] = value;
    }
    row[c] = value;
    squares = fmaf(value, value, squares);
  }
  if (call.gain == nullptr) return;
  squares = warp_sum(squares);
  if (thread % kWarpSize == 0) parts[thread / kWarpSize] = squares;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  const float scale = rsqrtf(sum / static_cast<float>(d) + call.eps);
  for (int c = thread; c < d; c += kThreads) {
    const float value = row[c] * scale * call.gain[c];
    row[c] = value;
    call.normed[token * d + c] = value;
  }
  __syncthreads();
  const PackedCopies& copies = call.copies;
  if (copies.bf16 != nullptr) {
    pack_row<kThreads>(XKind::kBf16, row, d, copies.bf16 + token * copies.bf16_stride);
  }
  if (copies.q8 != nullptr) {
    pack_row<kThreads>(XKind::kQ8, row, d, copies.q8 + token * copies.q8_stride);
  }
  if (copies.q8_k != nullptr) {
    pack_row<kThreads>(XKind::kQ8K, row, d, copies.q8_k + token * copies.q8_k_stride);
  }
}

}  // namespace

void residual_norm(void* stream, const ResidualNorm& call, int n, int d) {
  if (n == 0 || d == 0) return;
  VGPU_LAUNCH(residual_norm_kernel, dim3(static_cast<unsigned>(n)), dim3(kThreads),
              sizeof(float) * static_cast<size_t>(d), stream, call, d);
}

}  // namespace VGPU_NAMESPACE
