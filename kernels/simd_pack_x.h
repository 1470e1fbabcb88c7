// Rounding of activations (packed.h), the same for all instruction sets but for a few vectors: Vec
// has Scale scale_of(x, n), the scale of n values and its inverse, and quantize16(x, scale, to),
// sixteen int8 and their sum. Internal linkage, as simd_lanes.h.
#pragma once

#include "kernels/simd_lanes.h"

namespace tandem {
namespace {

// A block of activations that are all smaller is zeros: 127 over its magnitude would overflow.
constexpr float kLeastMagnitude = 1e-36F;

// Of a block: what its int8 are multiplied with, NaN where a value is not finite; and its inverse.
struct XScale {
  float scale;
  float inverse;
};

inline XScale x_scale(float largest, bool finite) {
  const bool zero = largest < kLeastMagnitude;
  if (!finite) return {__builtin_nanf(""), 0.0F};
  return zero ? XScale{0.0F, 0.0F} : XScale{largest / 127.0F, 127.0F / largest};
}

int place_of(int i) { return (i & ~3) | (i & 1) << 1 | (i >> 1 & 1); }  // 0 2 1 3

template <class T>
void put(uint8_t* to, int64_t index, T value) {
  __builtin_memcpy(to + index * static_cast<int64_t>(sizeof value), &value, sizeof value);
}

template <class Vec>
void pack_x_on(XKind kind, const float* x, int64_t cols, std::byte* row) {
  auto* to = reinterpret_cast<uint8_t*>(row);
  if (kind == XKind::kBf16) return Vec::round_to_bf16(x, cols, to);
  const int n = kind == XKind::kQ8 ? 32 : 256;
  uint8_t* d = to + cols;
  uint8_t* sums = d + cols / n * 4;
  uint8_t* fine = sums + cols / 32 * 2;
  for (int64_t b = 0; b < cols / n; ++b, x += n, to += n) {
    const XScale scale = Vec::scale_of(x, n);
    put(d, b, scale.scale);
    const auto quantize = [&](int i) { return Vec::quantize16(x + i, scale.inverse, to + i); };
    if (kind == XKind::kQ8) {
      put(sums, b, -(quantize(0) + quantize(16)));
      continue;
    }
    for (int i = 0; i < 8; ++i) {
      const int first = quantize(i * 32);
      const int second = quantize(i * 32 + 16);
      put(sums, b * 8 + place_of(i), static_cast<int16_t>(first + second));
      put(fine, b * 16 + place_of(2 * i), static_cast<int16_t>(first));
      put(fine, b * 16 + place_of(2 * i + 1), static_cast<int16_t>(second));
    }
  }
}

}  // namespace
}  // namespace tandem
