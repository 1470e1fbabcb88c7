// Activations as kernels/packed.h describes them, made in plain C++: on every CPU, and apart from
// the vectors that models run with.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/quant.h"

namespace tandem {

struct PackedActivations {
  XKind kind = XKind::kFloat;
  int64_t n = 0;
  int64_t cols = 0;
  int64_t stride = 0;          // bytes from row to row
  std::vector<uint8_t> bytes;  // [n, stride]
  std::vector<float> values;   // [n, cols]: what the bytes mean

  const float* row(int64_t t) const { return values.data() + t * cols; }
  // Of a row, without what fills it up.
  int64_t used_bytes() const;
};

// x: [n, cols], finite, cols in whole blocks of the kind.
PackedActivations pack_activations(XKind kind, const std::vector<float>& x, int64_t cols);

// What a KV cache in q8_0 makes of finite x in whole blocks of 32: the same int8, with f16 scales.
std::vector<float> as_q8_0(const std::vector<float>& x);

}  // namespace tandem
