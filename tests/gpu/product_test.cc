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
  std::vector<Shape> out = {{16, block, 1},      {1, block, 1},       {17, 3 * block, 2},
                            {40, 5 * block, 7},  {33, 4 * block, 9},  {16, 2 * block, 33},
                            {83, 3 * block, 17}, {17, 2 * block, 80}, {40, 4 * block, 129}};
  if (block == 32) out.insert(out.end(), {{70, 17 * block, 40}, {16, 8 * block, 65}});
  if (block == 1) {
    out = {{16, 64, 1}, {3, 7, 2},     {17, 97, 8},   {40, 130, 9},
           {16, 1, 33}, {83, 257, 17}, {17, 300, 80}, {40, 128, 129}};
  }
  return out;
}

// A matrix, its values, and where its product goes.
struct Part {
  Part(std::mt19937& rng, DType type, int64_t rows, int64_t cols, int64_t tokens, bool with_bias)
      : random(rng, type, rows, cols),
        on_gpu(random.view()),
        bias(with_bias ? random_floats(rng, rows) : std::vector<float>{}),
        y(static_cast<size_t>(tokens * rows), -7.0F) {}
  gpu::ProductPart view() {
    return {on_gpu.weights(), bias.empty() ? nullptr : bias.data(), y.data()};
  }

  RandomWeights random;
  DeviceMatrix on_gpu;
  std::vector<float> bias;
  std::vector<float> y;
};

// W x + bias in float64, x as packing leaves it.
void check_part(const Part& part, XKind kind, const std::vector<float>& x, const Shape& shape) {
  const std::vector<float> values = part.random.dequantized();
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const std::vector<float> seen = as_packed(kind, x.data() + t * shape.cols, shape.cols);
    for (int64_t r = 0; r < shape.rows; ++r) {
      const Dot dot = reference_dot(values.data() + r * shape.cols, seen.data(), shape.cols);
      const double expected = dot.sum + (part.bias.empty() ? 0 : part.bias[static_cast<size_t>(r)]);
      const float got = part.y[static_cast<size_t>(t * shape.rows + r)];
      INFO(shape.rows << " x " << shape.cols << ", " << shape.tokens << " tokens: token " << t
                      << " row " << r);
      REQUIRE(std::abs(got - expected) <=
              tolerance(shape.cols) * (dot.magnitude + std::abs(expected)) + 1e-30);
    }
  }
}

// Products of parts with these rows, each with or without a bias; with few tokens by the kernel
// that packs, too, which must give the same bits.
void check_products(const Way& way, DType type, const std::vector<int64_t>& rows, int64_t cols,
                    int64_t tokens, bool with_bias) {
  std::mt19937 rng(static_cast<unsigned>(rows[0] * 1000 + cols + tokens));
  std::vector<Part> parts;
  for (const int64_t n : rows) parts.emplace_back(rng, type, n, cols, tokens, with_bias);
  const std::vector<float> x = random_floats(rng, tokens * cols);
  const XKind kind = rounded_x_kind(type);
  vgpu::Emulation emulation(way.options);
  const PackedRowsOnGpu packed(&emulation, type, x, cols);
  const auto view = [&](size_t i) {
    return i < parts.size() ? parts[i].view() : gpu::ProductPart{};
  };
  const gpu::ProductParts all{view(0), view(1), view(2)};
  const uint64_t before = emulation.stats().launches;
  gpu::kEmulatedOps.product(&emulation, type, all, packed.view, static_cast<int>(tokens));
  CHECK(emulation.stats().launches == before + 1);
  INFO(way.name << ", " << dtype_info(type).name);
  for (size_t i = 0; i < rows.size(); ++i) {
    check_part(parts[i], kind, x, {rows[i], cols, tokens});
  }
  if (kind == XKind::kFloat || !gpu::can_pack_here(packed.stride, static_cast<int>(tokens))) return;
  for (Part& part : parts) {
    const std::vector<float> expected = part.y;
    std::fill(part.y.begin(), part.y.end(), -7.0F);
    const gpu::ProductParts one{part.view(), {}, {}};
    gpu::kEmulatedOps.product_few(&emulation, type, one, x.data(), static_cast<int>(tokens),
                                  static_cast<int>(cols), packed.stride);
    CHECK(same_bits(part.y, expected));
  }
}

}  // namespace

TEST_CASE("a GPU product with packed weights of any type agrees with float64") {
  for (const DType type : kAllTypes) {
    for (const Shape& shape : shapes_of(type)) {
      for (const Way& way : shape.tokens < 60 ? all_ways() : few_ways_if_sanitized()) {
        check_products(way, type, {shape.rows}, shape.cols, shape.tokens, false);
      }
    }
  }
}

TEST_CASE("up to three products of the same tokens are one launch, each with its bias") {
  const Way way = all_ways().front();
  for (const DType type : kAllTypes) {
    const int64_t cols = std::max(64, dtype_info(type).block_elems);
    check_products(way, type, {20, 16, 3}, cols, 4, true);
    check_products(way, type, {33, 48}, cols, 10, true);
    check_products(way, type, {33, 3, 48}, cols, 20, true);
  }
}

}  // namespace tandem::testing
