#include <numeric>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

// f32 sums of exact products, in whatever order; K-quants add integers, which are exact.
double tolerance(int64_t cols) { return static_cast<double>(cols + 8) / (1 << 24); }

struct Shape {
  int64_t rows;
  int64_t cols;
  int64_t tokens;
};

std::vector<Shape> shapes_of(DType type) {
  const int64_t block = dtype_info(type).block_elems;
  std::vector<Shape> out = {{16, block, 1},     {1, block, 1},      {17, 3 * block, 2},
                            {40, 5 * block, 7}, {33, 4 * block, 9}, {16, 2 * block, 33}};
  if (block == 1) out = {{16, 64, 1}, {3, 7, 2}, {17, 97, 8}, {40, 130, 9}, {16, 1, 33}};
  return out;
}

// Compares W x with float64, x as packing leaves it.
void check_product(const Way& way, DType type, const Shape& shape, const std::vector<int>& rows,
                   bool with_bias) {
  std::mt19937 rng(static_cast<unsigned>(shape.rows * 1000 + shape.cols + shape.tokens));
  const RandomWeights random(rng, type, shape.rows, shape.cols);
  const DeviceMatrix w(random.view());
  const std::vector<float> values = random.dequantized();
  const std::vector<float> x = random_floats(rng, shape.tokens * shape.cols);
  const std::vector<float> bias = random_floats(rng, shape.rows);
  const XKind kind = rounded_x_kind(type);
  vgpu::Emulation emulation(way.options);
  const PackedRowsOnGpu packed(&emulation, type, x, shape.cols);
  const int n = rows.empty() ? static_cast<int>(shape.tokens) : static_cast<int>(rows.size());
  std::vector<float> y(static_cast<size_t>(n * shape.rows), -7.0F);
  gpu::kEmulatedOps.product(&emulation, type, w.weights(), packed.view,
                            {rows.empty() ? nullptr : rows.data(), n},
                            with_bias ? bias.data() : nullptr, y.data());
  for (int t = 0; t < n; ++t) {
    const int row = rows.empty() ? t : rows[static_cast<size_t>(t)];
    const std::vector<float> seen = as_packed(kind, x.data() + row * shape.cols, shape.cols);
    for (int64_t r = 0; r < shape.rows; ++r) {
      const Dot dot = reference_dot(values.data() + r * shape.cols, seen.data(), shape.cols);
      const double expected = dot.sum + (with_bias ? bias[static_cast<size_t>(r)] : 0.0F);
      const float got = y[static_cast<size_t>(t * shape.rows + r)];
      INFO(way.name << ", " << dtype_info(type).name << " " << shape.rows << " x " << shape.cols
                    << ", " << shape.tokens << " tokens: token " << t << " row " << r);
      REQUIRE(std::abs(got - expected) <=
              tolerance(shape.cols) * (dot.magnitude + std::abs(expected)) + 1e-30);
    }
  }
}

}  // namespace

TEST_CASE("a GPU product with packed weights of any type agrees with float64") {
  for (const Way& way : all_ways()) {
    for (const DType type : kAllTypes) {
      for (const Shape& shape : shapes_of(type)) check_product(way, type, shape, {}, false);
    }
  }
}

TEST_CASE("a GPU product takes the rows that a list names, and adds a bias") {
  const Way way = all_ways().front();
  for (const DType type : kAllTypes) {
    const int64_t cols = std::max(64, dtype_info(type).block_elems);
    check_product(way, type, {20, cols, 6}, {5, 0, 5, 3}, true);
  }
}

}  // namespace tandem::testing
