// Rows of activations, packed once for all products that take them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed.h"
#include "kernels/parallel.h"

namespace tandem {

// Fewer values are packed sooner than a parallel region is started.
inline constexpr int64_t kWorthARegion = 64 * 1024;

class PackedRows {
 public:
  static int64_t bytes(XKind kind, int64_t n, int64_t cols) {
    return kind == XKind::kFloat ? 0 : n * x_bytes(kind, cols);
  }
  // x: [n, cols] f32. to: bytes(kind, n, cols), 64-byte aligned; x and `to`
  // must outlive this. f32 rows are not copied.
  PackedRows(XKind kind, const float* x, int64_t n, int64_t cols, std::byte* to,
             ParallelFor parallel)
      : base_(kind == XKind::kFloat ? reinterpret_cast<const std::byte*>(x) : to),
        stride_(kind == XKind::kFloat ? cols * 4 : x_bytes(kind, cols)) {
    if (kind == XKind::kFloat) return;
    const auto pack = [&](int64_t row) {
      pack_x(kind, x + row * cols, cols, to + row * x_bytes(kind, cols));
    };
    if (n * cols < kWorthARegion) {
      serial_for(n, pack);
    } else {
      parallel(n, pack);
    }
  }
  const std::byte* row(int64_t i) const { return base_ + i * stride_; }

 private:
  const std::byte* base_;
  int64_t stride_;
};

}  // namespace tandem
