#include "kernels/gpu/gpu_launchers.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

unsigned blocks_for(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

VGPU_DEVICE int64_t element() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + static_cast<int64_t>(threadIdx.x);
}

VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads)
    combine_kernel(const float* out, TokenUses uses, int d, float* y) {
  const int64_t token = blockIdx.y;
  const int64_t c = element();
  if (c >= d) return;
  float sum = y[token * d + c];
  for (int i = uses.begin[token]; i < uses.begin[token + 1]; ++i) {
    const int use = uses.uses[i];
    sum = fmaf(uses.weights[use], out[static_cast<int64_t>(use) * d + c], sum);
  }
  y[token * d + c] = sum;
}

// A block of threads a row.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads)
    rms_norm_kernel(const float* x, const float* gain, float eps, int d, float* y) {
  VGPU_SHARED(float, parts, kWarps);
  const float* row = x + static_cast<int64_t>(blockIdx.x) * d;
  float* to = y + static_cast<int64_t>(blockIdx.x) * d;
  const int thread = static_cast<int>(threadIdx.x);
  float squares = 0;
  for (int i = thread; i < d; i += kThreads) squares = fmaf(row[i], row[i], squares);
  squares = warp_sum(squares);
  if (thread % kWarpSize == 0) parts[thread / kWarpSize] = squares;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  const float scale = rsqrtf(sum / static_cast<float>(d) + eps);
  for (int i = thread; i < d; i += kThreads) to[i] = row[i] * scale * gain[i];
}

// blockIdx.y: token.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads)
    add_kernel(const float* x, const float* gate, int d, float* y) {
  const int64_t token = blockIdx.y;
  const int64_t c = element();
  if (c >= d) return;
  const float scale = gate != nullptr ? 1.0F / (1.0F + expf(-gate[token])) : 1.0F;
  y[token * d + c] = fmaf(scale, x[token * d + c], y[token * d + c]);
}

VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads) clamp_kernel(float limit, int64_t n, float* x) {
  const int64_t i = element();
  if (i >= n) return;
  const float v = x[i];
  x[i] = v > limit ? limit : v < -limit ? -limit : v;
}

// A thread a pair of elements.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kThreads)
    rope_kernel(const float* table, bool halves, int n_rot, int n_heads, int head_dim, float* x) {
  const int64_t token = blockIdx.y;
  const int64_t at = element();
  const int half = n_rot / 2;
  if (at >= static_cast<int64_t>(n_heads) * half) return;
  const int64_t head = at / half;
  const auto i = static_cast<int>(at % half);
  const float cosine = table[token * n_rot + i];
  const float sine = table[token * n_rot + half + i];
  float* values = x + (token * n_heads + head) * head_dim;
  float* first = values + (halves ? i : 2 * i);
  float* second = values + (halves ? i + half : 2 * i + 1);
  const float a = *first;
  const float b = *second;
  *first = a * cosine - b * sine;
  *second = a * sine + b * cosine;
}

}  // namespace

void rope(void* stream, const float* table, bool halves, int n_rot, int n, int n_heads,
          int head_dim, float* x) {
  const int64_t pairs = static_cast<int64_t>(n_heads) * (n_rot / 2);
  if (n == 0 || pairs == 0) return;
  VGPU_LAUNCH(rope_kernel, dim3(blocks_for(pairs), static_cast<unsigned>(n)), dim3(kThreads), 0,
              stream, table, halves, n_rot, n_heads, head_dim, x);
}

void combine(void* stream, const float* out, const TokenUses& uses, int n, int d, float* y) {
  if (n == 0 || d == 0) return;
  VGPU_LAUNCH(combine_kernel, dim3(blocks_for(d), static_cast<unsigned>(n)), dim3(kThreads), 0,
              stream, out, uses, d, y);
}

void rms_norm(void* stream, const float* x, const float* gain, float eps, int n, int d, float* y) {
  if (n == 0 || d == 0) return;
  VGPU_LAUNCH(rms_norm_kernel, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, stream, x, gain,
              eps, d, y);
}

void add(void* stream, const float* x, const float* gate, int n, int d, float* y) {
  if (n == 0 || d == 0) return;
  VGPU_LAUNCH(add_kernel, dim3(blocks_for(d), static_cast<unsigned>(n)), dim3(kThreads), 0, stream,
              x, gate, d, y);
}

void clamp(void* stream, float limit, int64_t n, float* x) {
  if (n == 0) return;
  VGPU_LAUNCH(clamp_kernel, dim3(blocks_for(n)), dim3(kThreads), 0, stream, limit, n, x);
}

}  // namespace VGPU_NAMESPACE
