#include "kernels/float_dot.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = 256;  // columns: a multiple of every block

}  // namespace

void dot_packed_float(DType type, const std::byte* group, int64_t n_groups,
                      int64_t /*group_stride*/, const Ahead& /*ahead*/, int64_t /*cols*/,
                      int64_t first_col, int64_t n_cols, const std::byte* const* x,
                      int64_t n_tokens, float* out, int64_t out_stride) {
  TANDEM_CHECK(n_groups == 1 && n_tokens <= kMaxFloatTokens && first_col % kChunk == 0,
               "%lld tokens from %lld", static_cast<long long>(n_tokens),
               static_cast<long long>(first_col));
  const SimdOps& ops = simd();
  const PackedBlock block = packed_block(type);
  alignas(64) float weights[kGroupRows * kChunk];
  alignas(64) std::byte raw[kChunk * sizeof(float)];
  for (int64_t c = 0; c < n_cols; c += kChunk) {
    const int64_t width = std::min(kChunk, n_cols - c);
    const int64_t blocks = (width + block.cols - 1) / block.cols;
    const std::byte* from = group + c / block.cols * block.group_bytes();
    for (int64_t r = 0; r < kGroupRows; ++r) {
      unpack_blocks(block, from, r, blocks, raw);
      ops.dequantize(type, raw, weights + r * kChunk, width);
    }
    const float* columns[kMaxFloatTokens];
    for (int64_t t = 0; t < n_tokens; ++t) {
      columns[t] = reinterpret_cast<const float*>(x[t]) + first_col + c;
    }
    ops.dot(weights, kChunk, kGroupRows, columns, n_tokens, width, out, out_stride);
  }
}

}  // namespace tandem
