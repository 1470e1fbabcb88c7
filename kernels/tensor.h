// Views that kernels take. Nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace tandem {

enum class Layout : uint8_t {
  kRows,    // as GGUF stores a matrix: one row behind the other
  kPacked,  // groups of kGroupRows rows, as packed.h says; the last one may have rows that do not
            // count on a GPU, nowhere else
};
inline constexpr int64_t kGroupRows = 16;

// A weight matrix: `rows` output features, each a run of `cols` weights in blocks of `type`, any
// alignment. y = W x has W.rows elements.
struct WeightView {
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  int64_t stride_bytes = 0;  // from run to run; 0: back to back
  Layout layout = Layout::kRows;

  explicit operator bool() const { return data != nullptr; }
  int64_t row_bytes() const { return dtype_bytes(type, cols); }
  int64_t bytes() const { return row_bytes() * rows; }
  // What lies in one piece whatever the stride: a row, or a group of packed rows.
  int64_t run_rows() const { return layout == Layout::kPacked ? kGroupRows : 1; }
  int64_t run_bytes() const {
    const bool half_dword = (type == DType::kF16 || type == DType::kBF16) && cols % 2 != 0;
    const bool filled_up = layout == Layout::kPacked && half_dword;
    return (row_bytes() + (filled_up ? 2 : 0)) * run_rows();
  }
  int64_t runs() const { return (rows + run_rows() - 1) / run_rows(); }
  int64_t run_stride() const { return stride_bytes > 0 ? stride_bytes : run_bytes(); }
  // From the first byte to the last one, with what lies between runs.
  int64_t span_bytes() const { return rows > 0 ? run_stride() * (runs() - 1) + run_bytes() : 0; }
  // The same matrix were it packed, back to back.
  WeightView as_packed() const { return {type, rows, cols, data, 0, Layout::kPacked}; }
};

}  // namespace tandem
