#include "runtime/pregate/reused_gate.h"

#include <cmath>

#include "kernels/packed.h"
#include "kernels/quant.h"

namespace tandem {

std::vector<float> reused_gate(const LayerWeights& source, const LayerWeights& target) {
  const WeightView& w = target.router;
  const auto d = static_cast<size_t>(w.cols);
  std::vector<float> scale(d);
  for (size_t c = 0; c < d; ++c) {
    constexpr float kMost = 1e4F;
    const float from = source.ffn_norm[c];
    const float to = target.ffn_norm[c];
    scale[c] = std::abs(to) < kMost * std::abs(from) ? to / from : 0;
  }
  std::vector<float> gate(static_cast<size_t>(w.rows) * d);
  std::vector<std::byte> blocks(static_cast<size_t>(w.row_bytes()));
  for (int64_t r = 0; r < w.rows; ++r) {
    float* row = gate.data() + static_cast<size_t>(r) * d;
    if (w.layout == Layout::kPacked) {
      unpack_row(w, r, blocks.data());
      dequantize(w.type, blocks.data(), row, w.cols);
    } else {
      dequantize(w.type, w.data + r * w.row_bytes(), row, w.cols);
    }
    for (size_t c = 0; c < d; ++c) row[c] *= scale[c];
  }
  return gate;
}

}  // namespace tandem
