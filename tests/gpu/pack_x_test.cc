#include <limits>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

std::vector<uint8_t> packed_on_gpu(const Way& way, XKind kind, const std::vector<float>& x,
                                   int64_t cols) {
  const auto n = static_cast<int64_t>(x.size()) / cols;
  const int64_t stride = x_bytes(kind, cols);
  DeviceBytes to(n * stride);
  vgpu::Emulation emulation(way.options);
  gpu::kEmulatedOps.pack_x(&emulation, kind, x.data(), static_cast<int>(n), static_cast<int>(cols),
                           to.data(), static_cast<int>(stride));
  return {to.data(), to.data() + to.size()};
}

// By the vectors of this machine, whose rounding packed_test.cc holds against float64.
std::vector<uint8_t> packed_on_cpu(XKind kind, const std::vector<float>& x, int64_t cols) {
  const auto n = static_cast<int64_t>(x.size()) / cols;
  std::vector<uint8_t> to(static_cast<size_t>(n * x_bytes(kind, cols)));
  for (int64_t t = 0; t < n; ++t) {
    pack_x(kind, x.data() + t * cols, cols,
           reinterpret_cast<std::byte*>(to.data() + t * x_bytes(kind, cols)));
  }
  return to;
}

}  // namespace

TEST_CASE("activations are packed on a GPU to the bytes that the CPU makes") {
  const SimdOps* avx2 = find_simd("avx2");
  if (avx2 == nullptr) {
    WARN("skipped: this CPU has no vectors, and its reference does not round");
    return;
  }
  const IsaScope scope(avx2);
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Way& way : all_ways()) {
    for (const XKind kind : {XKind::kQ8, XKind::kQ8K, XKind::kBf16}) {
      const int64_t cols = kind == XKind::kBf16 ? 517 : 768;
      std::mt19937 rng(3);
      std::vector<float> x = random_floats(rng, 5 * cols);
      for (int64_t i = 0; i < cols; ++i) {
        x[static_cast<size_t>(cols + i)] = 0;            // a row of zeros
        x[static_cast<size_t>(2 * cols + i)] *= 1e-38F;  // denormals
        x[static_cast<size_t>(3 * cols + i)] *= 1e37F;
        if (i % 300 == 7) x[static_cast<size_t>(4 * cols + i)] = i < 400 ? inf : nan;
      }
      INFO(way.name << ", kind " << static_cast<int>(kind));
      CHECK(packed_on_gpu(way, kind, x, cols) == packed_on_cpu(kind, x, cols));
    }
  }
}

}  // namespace tandem::testing
