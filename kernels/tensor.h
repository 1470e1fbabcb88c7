// Views that kernels take. Nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace tandem {

// A weight matrix as GGUF stores it: `rows` output features, each a run of `cols` weights in
// blocks of `type`, rows back to back, any alignment. y = W x has W.rows elements.
struct WeightView {
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;

  explicit operator bool() const { return data != nullptr; }
  int64_t row_bytes() const { return dtype_bytes(type, cols); }
  int64_t bytes() const { return row_bytes() * rows; }
};

}  // namespace tandem
