// Packing of activations inside a kernel: what pack_x() of kernels/packed.h makes of a row, byte
// for byte.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

// As kernels/simd_pack_x.h: of a block, what its int8 are multiplied with, and the inverse.
struct XScale {
  float scale;
  float inverse;
};

VGPU_DEVICE XScale x_scale(float largest, bool finite) {
  constexpr float kLeastMagnitude = 1e-36F;
  if (!finite) return {bits_to_f32(0x7FC00000U), 0.0F};
  if (largest < kLeastMagnitude) return {0.0F, 0.0F};
  return {largest / 127.0F, 127.0F / largest};
}

VGPU_DEVICE bool is_finite(float v) { return (f32_to_bits(v) & 0x7F800000U) != 0x7F800000U; }

// Not finite becomes 127 or 0: it has no int8, and its block's scale says so.
VGPU_DEVICE int quantized(float v, float inverse) {
  return __float2int_rn(fminf(v * inverse, 127.0F));
}

// One of 32 values of which a warp makes a block of Q8_0, as quantize_q8_0() of kernels/quant.h
// does, byte for byte.
struct Q8Value {
  uint16_t scale;  // f16, of all
  uint8_t q;
  VGPU_DEVICE explicit Q8Value(float v) {
    const bool finite = __any_sync(kAllLanes, is_finite(v) ? 0 : 1) == 0;
    const XScale of = x_scale(warp_max(fabsf(v)), finite);
    constexpr uint16_t kNan = 0x7E00;
    scale = finite ? f32_to_f16(of.scale) : kNan;
    q = finite ? static_cast<uint8_t>(quantized(v, of.inverse)) : uint8_t{0};
  }
};

// A warp makes block `block` of 32 * kParts columns of a row: lane l has columns l, 32 + l, ….
template <int kParts>
VGPU_DEVICE void pack_block_q8(const float* x, int cols, int block, uint8_t* row) {
  constexpr int kCols = 32 * kParts;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const float* from = x + block * kCols;
  float v[kParts];
  float largest = 0;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    v[i] = from[32 * i + lane];
    largest = fmaxf(largest, fabsf(v[i]));
    finite = finite && is_finite(v[i]);
  }
  const XScale scale = x_scale(warp_max(largest), __any_sync(kAllLanes, finite ? 0 : 1) == 0);
  uint8_t* d = row + cols;
  uint8_t* sums = d + cols / kCols * 4;
  if (lane == 0) store_u32(d + block * 4, f32_to_bits(scale.scale));
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const int q = quantized(v[i], scale.inverse);
    row[block * kCols + 32 * i + lane] = static_cast<uint8_t>(q);
    // Of 16 columns, then of 32.
    int sum = q;
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    const int both = sum + __shfl_xor_sync(kAllLanes, sum, 16);
    if (kParts == 1) {
      if (lane == 0) store_u32(sums + block * 4, static_cast<uint32_t>(-both));
      continue;
    }
    const auto place = [](int index) { return (index & ~3) | (index & 1) << 1 | (index >> 1 & 1); };
    uint8_t* fine = sums + cols / 32 * 2;
    if (lane == 0) store_u16(sums + 2 * (block * 8 + place(i)), static_cast<uint16_t>(both));
    if (lane % 16 == 0) {
      store_u16(fine + 2 * (block * 16 + place(2 * i + lane / 16)), static_cast<uint16_t>(sum));
    }
  }
}

// Column i of a row, i < cols + cols % 2: to nearest, ties to even; NaN becomes a quiet one; a zero
// behind an odd number.
VGPU_DEVICE void pack_bf16(const float* x, int cols, int i, uint8_t* row) {
  const uint32_t bits = i < cols ? f32_to_bits(x[i]) : 0U;
  const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  const uint32_t rounded = nan ? 0x7FC00000U : bits + 0x7FFFU + (bits >> 16 & 1U);
  store_u16(row + 2 * i, static_cast<uint16_t>(rounded >> 16));
}

// A whole row by a block of kThreads threads. kFloat: as it is.
template <int kThreads>
VGPU_DEVICE void pack_row(XKind kind, const float* x, int cols, uint8_t* row) {
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  constexpr int kWarps = kThreads / kWarpSize;
  switch (kind) {
    case XKind::kFloat:
      for (int i = thread; i < cols; i += kThreads) store_u32(row + 4 * i, f32_to_bits(x[i]));
      return;
    case XKind::kBf16:
      for (int i = thread; i < cols + cols % 2; i += kThreads) pack_bf16(x, cols, i, row);
      return;
    case XKind::kQ8:
      for (int b = warp; b < cols / 32; b += kWarps) pack_block_q8<1>(x, cols, b, row);
      return;
    case XKind::kQ8K:
      for (int b = warp; b < cols / 256; b += kWarps) pack_block_q8<8>(x, cols, b, row);
      return;
  }
}

}  // namespace VGPU_NAMESPACE
