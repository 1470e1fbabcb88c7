#include <limits>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {

TEST_CASE("RMSNorm on a GPU agrees with float64, in place too") {
  for (const Way& way : all_ways()) {
    for (const int d : {1, 7, 256, 1000, 2048}) {
      constexpr int kN = 3;
      std::mt19937 rng(static_cast<unsigned>(d));
      std::vector<float> x = random_floats(rng, kN * d, 3.0F);
      const std::vector<float> gain = random_floats(rng, d);
      std::vector<float> y(x.size());
      vgpu::Emulation emulation(way.options);
      gpu::kEmulatedOps.rms_norm(&emulation, x.data(), gain.data(), 1e-5F, kN, d, y.data());
      for (int t = 0; t < kN; ++t) {
        double squares = 0;
        for (int c = 0; c < d; ++c) {
          const double v = x[static_cast<size_t>(t * d + c)];
          squares += v * v;
        }
        const double scale = 1 / std::sqrt(squares / d + 1e-5);
        for (int c = 0; c < d; ++c) {
          const auto i = static_cast<size_t>(t * d + c);
          const double expected = x[i] * scale * gain[static_cast<size_t>(c)];
          INFO(way.name << ", d " << d);
          REQUIRE(std::abs(y[i] - expected) <= 2e-6 * std::abs(expected) + 1e-30);
        }
      }
      gpu::kEmulatedOps.rms_norm(&emulation, x.data(), gain.data(), 1e-5F, kN, d, x.data());
      CHECK(same_bits(x, y));
    }
  }
}

TEST_CASE("a GPU adds and limits element by element") {
  for (const Way& way : all_ways()) {
    std::mt19937 rng(1);
    const std::vector<float> x = random_floats(rng, 777);
    std::vector<float> y = random_floats(rng, 777);
    std::vector<float> expected = y;
    for (size_t i = 0; i < x.size(); ++i) expected[i] += x[i];
    vgpu::Emulation emulation(way.options);
    gpu::kEmulatedOps.add(&emulation, x.data(), nullptr, 1, 777, y.data());
    CHECK(same_bits(y, expected));

    const float inf = std::numeric_limits<float>::infinity();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> limited{-9, -2, 0.5F, 2, 9, inf, -inf, nan};
    gpu::kEmulatedOps.clamp(&emulation, 2, 8, limited.data());
    CHECK(same_bits(limited, {-2, -2, 0.5F, 2, 2, 2, -2, nan}));
  }
}

TEST_CASE("operations on nothing launch nothing") {
  vgpu::Emulation emulation;
  const gpu::GpuOps& ops = gpu::kEmulatedOps;
  ops.add(&emulation, nullptr, nullptr, 0, 0, nullptr);
  ops.clamp(&emulation, 1, 0, nullptr);
  ops.rms_norm(&emulation, nullptr, nullptr, 1, 0, 8, nullptr);
  ops.combine(&emulation, nullptr, {}, 0, 8, nullptr);
  ops.pack_x(&emulation, XKind::kQ8, nullptr, 0, 64, nullptr, 192);
  ops.pack_x(&emulation, XKind::kBf16, nullptr, 0, 64, nullptr, 192);
  ops.product(&emulation, DType::kF32, {}, {}, {}, nullptr, nullptr);
  ops.expert_hidden(&emulation, DType::kF32, gpu::HiddenPart::kBoth, {}, {}, nullptr, 16, nullptr);
  ops.expert_output(&emulation, DType::kF32, {}, {}, 16, nullptr);
  CHECK(emulation.stats().launches == 0);
}

}  // namespace tandem::testing
