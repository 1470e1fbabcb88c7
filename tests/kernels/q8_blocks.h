// q8_0 by its formula, in plain C++ and apart from quantize_q8_0(): what tests of KV caches expect.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/kv_cache.h"
#include "kernels/quant.h"

namespace tandem::testing {

// Of 32 finite values.
struct PlainQ8 {
  uint16_t scale = 0;  // f16
  int q[32] = {};

  explicit PlainQ8(const float* x) {
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
    if (largest < 1e-36F) return;
    scale = f32_to_f16(largest / 127.0F);
    const float inverse = 127.0F / largest;
    for (int i = 0; i < 32; ++i) q[i] = static_cast<int>(std::nearbyint(x[i] * inverse));
  }
  float value(int i) const { return f16_to_f32(scale) * static_cast<float>(q[i]); }
};

// A head's key or value as a cache of the type holds it; n: whole blocks.
inline std::vector<float> as_stored(KvType type, const float* x, int64_t n) {
  std::vector<float> out(x, x + n);
  if (type == KvType::kF16) {
    for (float& v : out) v = f16_to_f32(f32_to_f16(v));
  } else if (type == KvType::kQ8_0) {
    for (int64_t i = 0; i < n; i += 32) {
      const PlainQ8 block(x + i);
      for (int j = 0; j < 32; ++j) out[static_cast<size_t>(i + j)] = block.value(j);
    }
  }
  return out;
}

}  // namespace tandem::testing
