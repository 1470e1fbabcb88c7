// pack_x, product and product_few.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/packed.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

const char* kind_name(XKind kind) {
  switch (kind) {
    case XKind::kFloat:
      return "f32";
    case XKind::kBf16:
      return "bf16";
    case XKind::kQ8:
      return "q8";
    case XKind::kQ8K:
      return "q8K";
  }
  return "?";
}

// A row each of ordinary numbers, zeros, denormal and huge ones.
std::vector<float> rows_to_pack(int64_t cols) {
  Random random(3);
  std::vector<float> x = random.floats(4 * cols, 1);
  for (int64_t i = 0; i < cols; ++i) {
    x[at(cols + i)] = 0;
    x[at(2 * cols + i)] *= 1e-38F;
    x[at(3 * cols + i)] *= 1e37F;
  }
  return x;
}

std::vector<uint8_t> packed_on_device(const OpContext& c, DeviceMemory& memory, XKind kind,
                                      const std::vector<float>& x, int64_t cols) {
  const auto n = static_cast<int>(static_cast<int64_t>(x.size()) / cols);
  const int64_t stride = x_bytes(kind, cols);
  const auto from = memory.put(x);
  const auto to = memory.room<uint8_t>(n * stride);
  memory.run("pack_x", [&](const KernelScope& scope) {
    c.ops.pack_x(scope.stream(), kind, from.in(scope), n, static_cast<int>(cols), to.in(scope),
                 static_cast<int>(stride));
  });
  return memory.get(to);
}

// The bytes are those that the rule of packed.h gives.
void check_bytes(const OpContext& c, XKind kind, int64_t cols) {
  c.check("pack_x", kind_name(kind), fmt::format("4 x {}", cols),
          [&](DeviceMemory& memory, Comparison& comparison) {
            const std::vector<float> x = rows_to_pack(cols);
            const PackedActivations expected = pack_activations(kind, x, cols);
            const std::vector<uint8_t> got = packed_on_device(c, memory, kind, x, cols);
            for (int64_t t = 0; t < expected.n; ++t) {
              comparison.add_bytes(got.data() + t * expected.stride,
                                   expected.bytes.data() + t * expected.stride,
                                   expected.used_bytes());
            }
          });
}

// A value that is not finite makes NaN of its block's scale, or (bf16) of itself or keeps it.
void check_not_finite(const OpContext& c, XKind kind, float value, const char* name) {
  constexpr int64_t kCols = 512;
  c.check("pack_x", kind_name(kind), fmt::format("1 x {}, {}", kCols, name),
          [&](DeviceMemory& memory, Comparison& comparison) {
            std::vector<float> x(kCols, 1.0F);
            x[7] = value;
            const std::vector<uint8_t> got = packed_on_device(c, memory, kind, x, kCols);
            if (kind == XKind::kBf16) {
              uint32_t bits = uint32_t{got[14]} << 16 | uint32_t{got[15]} << 24;
              float seen = 0;
              std::memcpy(&seen, &bits, sizeof seen);
              comparison.add_exact(0, 7, seen, value);
              return;
            }
            float scales[2];
            std::memcpy(scales, got.data() + kCols, sizeof scales);
            comparison.add_exact(0, 0, scales[0], std::numeric_limits<float>::quiet_NaN());
            comparison.add_exact(0, x_block(kind), scales[1], 1.0F / 127.0F);
          });
}

struct Shape {
  int64_t rows;
  int64_t cols;
  int64_t tokens;
};

std::vector<Shape> shapes_of(DType type, bool large) {
  const int64_t block = dtype_info(type).block_elems;
  std::vector<Shape> shapes = {{16, 64, 1}, {3, 7, 2}, {17, 97, 9}, {40, 130, 17}};
  if (block > 1) {
    shapes = {{16, block, 1}, {1, block, 1}, {17, 3 * block, 9}, {40, 5 * block, 17}};
  }
  if (large) {
    shapes.push_back({2048, 2048, 1});
    shapes.push_back({1000, 4096, 33});
  }
  return shapes;
}

// A matrix of a launch, and its product in device memory.
struct Part {
  RandomMatrix w;
  std::vector<float> bias;
  DeviceMatrix w_at{};
  DeviceArray<float> bias_at{};
  DeviceArray<float> y_at{};

  Part(DeviceMemory& memory, Random* random, DType type, int64_t rows, int64_t cols, int64_t n)
      : w(random_matrix(random, type, rows, cols)),
        bias(random->floats(rows, 1)),
        w_at(put(memory, w)),
        bias_at(memory.put(bias)),
        y_at(memory.room<float>(n * rows)) {}
  gpu::ProductPart in(const KernelScope& scope, bool with_bias) const {
    return {w_at.in(scope), with_bias ? bias_at.in(scope) : nullptr, y_at.in(scope)};
  }
};

// y = W x (+ bias) of one to three matrices with these rows. few: by the kernel that packs x.
void check_products(const OpContext& c, DType type, const std::vector<int64_t>& rows, int64_t cols,
                    int64_t n, bool with_bias, bool few) {
  std::string text;
  for (const int64_t r : rows) text += fmt::format("{}{}", text.empty() ? "" : ", ", r);
  text += fmt::format(" x {}, {}{}", cols, tokens_text(n), with_bias ? ", bias" : "");
  c.check(few ? "product_few" : "product", dtype_info(type).name, text,
          [&](DeviceMemory& memory, Comparison& comparison) {
            Random random(static_cast<uint32_t>(rows[0] * 1000 + cols + n));
            std::vector<Part> parts;
            parts.reserve(rows.size());
            for (const int64_t r : rows) parts.emplace_back(memory, &random, type, r, cols, n);
            const std::vector<float> values = random.floats(n * cols, 1);
            const PackedActivations x = pack_activations(rounded_x_kind(type), values, cols);
            const DeviceActivations x_at = memory.put(x);
            const auto values_at = memory.put(values);
            memory.run("product", [&](const KernelScope& scope) {
              const auto part = [&](size_t i) {
                return i < parts.size() ? parts[i].in(scope, with_bias) : gpu::ProductPart{};
              };
              const gpu::ProductParts all{part(0), part(1), part(2)};
              const auto count = static_cast<int>(n);
              if (few) {
                c.ops.product_few(scope.stream(), type, all, values_at.in(scope), count,
                                  static_cast<int>(cols), static_cast<int>(x.stride));
              } else {
                c.ops.product(scope.stream(), type, all, x_at.in(scope), count);
              }
            });
            for (const Part& part : parts) {
              const std::vector<float> y = memory.get(part.y_at);
              for (int64_t t = 0; t < n; ++t) {
                for (int64_t r = 0; r < part.w.rows; ++r) {
                  const Dot d = dot(part.w.row(r), x.row(t), cols);
                  const double more = with_bias ? part.bias[at(r)] : 0.0F;
                  comparison.add(t, r, y[at(t * part.w.rows + r)], d.sum + more,
                                 dot_tolerance(type, cols, d.magnitude + std::abs(more)));
                }
              }
            }
          });
}

}  // namespace

void check_pack_x(const OpContext& c) {
  for (const XKind kind : {XKind::kBf16, XKind::kQ8, XKind::kQ8K}) {
    check_bytes(c, kind, kind == XKind::kBf16 ? 517 : 768);
    if (c.large) check_bytes(c, kind, 14336);
    check_not_finite(c, kind, std::numeric_limits<float>::infinity(), "infinity");
    check_not_finite(c, kind, std::numeric_limits<float>::quiet_NaN(), "NaN");
  }
}

void check_product(const OpContext& c) {
  for (const DType type : kWeightTypes) {
    for (const Shape& shape : shapes_of(type, c.large)) {
      check_products(c, type, {shape.rows}, shape.cols, shape.tokens, false, false);
    }
    const int64_t cols = std::max(64, dtype_info(type).block_elems);
    check_products(c, type, {20, 16, 3}, cols, 4, true, false);
  }
}

void check_product_few(const OpContext& c) {
  for (const DType type : kWeightTypes) {
    if (rounded_x_kind(type) == XKind::kFloat) continue;
    const int64_t cols = 3 * std::max(64, dtype_info(type).block_elems);
    check_products(c, type, {17}, cols, 1, false, true);
    check_products(c, type, {20, 16, 3}, cols, 8, true, true);
    if (c.large) {
      const int64_t row_bytes = x_bytes(rounded_x_kind(type), 4096);
      int64_t n = gpu::kFewTokens;
      while (!gpu::can_pack_here(row_bytes, static_cast<int>(n))) --n;
      check_products(c, type, {2048}, 4096, n, false, true);
    }
  }
}

}  // namespace tandem
