// Inputs of checks, the same on every machine: uniform numbers and weights from a seed, with what
// the weights mean as float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/quant.h"

namespace tandem {

class Random {
 public:
  explicit Random(uint32_t seed) : rng_(seed) {}
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(rng_()) % n; }
  float uniform(float most);  // in [-most, most)
  std::vector<float> floats(int64_t n, float most);

 private:
  std::mt19937 rng_;
};

// [rows, cols], cols in whole blocks of the type.
struct RandomMatrix {
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<std::byte> packed;  // groups of 16 rows (kernels/packed.h), missing ones as zeros
  std::vector<float> values;      // [rows, cols], by dequantize()

  const float* row(int64_t r) const { return values.data() + r * cols; }
};

RandomMatrix random_matrix(Random* random, DType type, int64_t rows, int64_t cols);

}  // namespace tandem
