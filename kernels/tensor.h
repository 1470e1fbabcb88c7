// Views that kernels take. Nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace tandem {

// A weight matrix as GGUF stores it: `rows` output features, each a run of `cols` weights in
// blocks of `type`, any alignment. y = W x has W.rows elements.
struct WeightView {
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  int64_t stride_bytes = 0;  // from row to row; 0: rows back to back

  explicit operator bool() const { return data != nullptr; }
  int64_t row_bytes() const { return dtype_bytes(type, cols); }
  int64_t row_stride() const { return stride_bytes > 0 ? stride_bytes : row_bytes(); }
  int64_t bytes() const { return row_bytes() * rows; }
  // From the first byte to the last one, with what lies between rows.
  int64_t span_bytes() const { return rows > 0 ? row_stride() * (rows - 1) + row_bytes() : 0; }
};

}  // namespace tandem
