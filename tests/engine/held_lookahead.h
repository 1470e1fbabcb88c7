// A row of a lookahead's matrix as devices hold it, in Q8_0.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "kernels/quant.h"

namespace tandem::test {

// values: whole blocks of 32
inline std::vector<float> as_held(std::vector<float> values) {
  constexpr size_t kBlock = 32;
  std::array<std::byte, 34> block{};
  for (size_t i = 0; i < values.size(); i += kBlock) {
    quantize_q8_0(values.data() + i, block.data());
    dequantize(DType::kQ8_0, block.data(), values.data() + i, kBlock);
  }
  return values;
}

}  // namespace tandem::test
