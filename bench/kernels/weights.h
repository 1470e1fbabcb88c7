// Weights to measure with, and what products with them should be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/quant.h"
#include "runtime/model/host_memory.h"

namespace tandem::bench {

// Copies of some weights in huge pages, so many that none is in a cache when its turn comes.
class Ring {
 public:
  Ring() = default;
  // MemoryError where that is more than the machine has.
  Ring(std::span<const std::byte> one, int64_t at_least_bytes);

  const std::byte* next();  // 64-byte aligned
  std::span<const std::byte> all() const;
  explicit operator bool() const { return copies_ > 0; }

 private:
  HostRegion region_;
  int64_t stride_ = 0;
  int64_t copies_ = 0;
  int64_t turn_ = 0;
};

// A random matrix of which only the first rows differ; the others repeat these, so that it is made
// and checked soon.
class Matrix {
 public:
  Matrix(std::mt19937& rng, DType type, int64_t rows, int64_t cols);

  DType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  std::vector<std::byte> plain() const;  // as a file has it
  // Group `index` as kernels read it (kernels/packed.h); group_bytes() of them.
  void packed_group(int64_t index, std::byte* to) const;
  int64_t group_bytes() const;
  std::vector<std::byte> packed() const;
  const float* row(int64_t r) const { return values_.data() + r % distinct_ * cols_; }

 private:
  DType type_;
  int64_t rows_;
  int64_t cols_;
  int64_t distinct_;
  std::vector<std::byte> bytes_;  // of the rows that differ
  std::vector<float> values_;     // [distinct_, cols_]
};

// [cols] f32 of a row of weights or of a token.
using RowOf = std::function<const float*(int64_t)>;

// y: [n_tokens, n_rows]. "", or the first of some elements from all over y that is further from
// float64's than `tolerance`, in units of the sum of magnitudes.
std::string compare(const std::vector<float>& y, int64_t n_tokens, int64_t n_rows, int64_t cols,
                    const RowOf& weights, const RowOf& x, double tolerance);

// Of sums of so many columns in f32, in whatever order.
inline double f32_tolerance(int64_t cols) { return static_cast<double>(cols + 1) / (1 << 24); }

}  // namespace tandem::bench
