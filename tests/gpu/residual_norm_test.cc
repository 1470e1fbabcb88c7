#include <array>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

constexpr int kN = 3;
constexpr int kUses = 5;

// What a residual may get at once, and what comes out.
struct Case {
  explicit Case(int the_d) : d(the_d), rng(static_cast<unsigned>(the_d)) {
    const auto rows = [&](int n, float scale) { return random_floats(rng, int64_t{n} * d, scale); };
    y = rows(kN, 3.0F);
    first = rows(kN, 1.0F);
    gated = rows(kN, 1.0F);
    last = rows(kN, 1.0F);
    out = rows(kUses, 1.0F);
    gate = random_floats(rng, kN, 2.0F);
    weights = random_floats(rng, kUses, 1.0F);
    gain = random_floats(rng, d, 1.0F);
    normed.assign(y.size(), -7.0F);
  }
  gpu::ResidualNorm call(bool with_norm) {
    gpu::ResidualNorm call{};
    call.y = y.data();
    call.gain = with_norm ? gain.data() : nullptr;
    call.eps = 1e-5F;
    call.normed = with_norm ? normed.data() : nullptr;
    return call;
  }
  void add_everything(gpu::ResidualNorm* call) const {
    call->addends[0] = {first.data(), nullptr};
    call->addends[1] = {gated.data(), gate.data()};
    call->addends[2] = {last.data(), nullptr};
    call->out = out.data();
    call->uses = {begin.data(), uses.data(), weights.data()};
  }
  // The sums that add_everything() asks for, of f32 in the order that is promised.
  std::vector<float> summed() const {
    std::vector<float> sum = y;
    for (int t = 0; t < kN; ++t) {
      for (int c = 0; c < d; ++c) {
        const auto i = static_cast<size_t>(t * d + c);
        const double sigmoid =
            1 / (1 + std::exp(-static_cast<double>(gate[static_cast<size_t>(t)])));
        double value = sum[i] + first[i] + sigmoid * gated[i];
        for (int u = begin[static_cast<size_t>(t)]; u < begin[static_cast<size_t>(t) + 1]; ++u) {
          const int use = uses[static_cast<size_t>(u)];
          value += static_cast<double>(weights[static_cast<size_t>(use)]) *
                   out[static_cast<size_t>(use * d + c)];
        }
        sum[i] = static_cast<float>(value + last[i]);
      }
    }
    return sum;
  }

  int d;
  std::mt19937 rng;
  std::vector<float> y, first, gated, last, out, gate, weights, gain, normed;
  // Vectors: the sanitizer knows where they end.
  std::vector<int> begin{0, 3, 3, 5};
  std::vector<int> uses{4, 0, 2, 1, 3};
};

// normed of y, in float64.
void check_normed(const Case& c) {
  for (int t = 0; t < kN; ++t) {
    double squares = 0;
    for (int i = 0; i < c.d; ++i) {
      const double v = c.y[static_cast<size_t>(t * c.d + i)];
      squares += v * v;
    }
    const double scale = 1 / std::sqrt(squares / c.d + 1e-5);
    for (int i = 0; i < c.d; ++i) {
      const auto at = static_cast<size_t>(t * c.d + i);
      const double expected = c.y[at] * scale * c.gain[static_cast<size_t>(i)];
      REQUIRE(std::abs(c.normed[at] - expected) <= 2e-6 * std::abs(expected) + 1e-30);
    }
  }
}

}  // namespace

TEST_CASE("RMSNorm on a GPU agrees with float64 and leaves the residual alone") {
  for (const Way& way : all_ways()) {
    for (const int d : {1, 7, 256, 1000, 2048}) {
      Case c(d);
      const std::vector<float> before = c.y;
      vgpu::Emulation emulation(way.options);
      gpu::kEmulatedOps.residual_norm(&emulation, c.call(true), kN, d);
      INFO(way.name << ", d " << d);
      check_normed(c);
      CHECK(same_bits(c.y, before));
      CHECK(emulation.stats().launches == 1);
    }
  }
}

TEST_CASE("a residual gets two addends, its experts' uses and another addend, then its norm") {
  for (const Way& way : all_ways()) {
    for (const int d : {5, 300, 512}) {
      for (const bool with_norm : {false, true}) {
        Case c(d);
        const std::vector<float> expected = c.summed();
        gpu::ResidualNorm call = c.call(with_norm);
        c.add_everything(&call);
        vgpu::Emulation emulation(way.options);
        gpu::kEmulatedOps.residual_norm(&emulation, call, kN, d);
        INFO(way.name << ", d " << d);
        for (size_t i = 0; i < expected.size(); ++i) {
          REQUIRE(std::abs(c.y[i] - expected[i]) <= 2e-6F * (std::abs(expected[i]) + 4));
        }
        if (with_norm) check_normed(c);
      }
    }
  }
}

TEST_CASE("the uses of experts are added to their tokens in the order given") {
  for (const Way& way : all_ways()) {
    constexpr int kD = 300;
    Case c(kD);
    std::vector<float> expected = c.y;
    for (size_t t = 0; t < kN; ++t) {
      for (int i = c.begin[t]; i < c.begin[t + 1]; ++i) {
        const auto use = static_cast<size_t>(c.uses[static_cast<size_t>(i)]);
        for (size_t at = 0; at < kD; ++at) {
          expected[t * kD + at] =
              std::fma(c.weights[use], c.out[use * kD + at], expected[t * kD + at]);
        }
      }
    }
    gpu::ResidualNorm call = c.call(false);
    call.out = c.out.data();
    call.uses = {c.begin.data(), c.uses.data(), c.weights.data()};
    vgpu::Emulation emulation(way.options);
    gpu::kEmulatedOps.residual_norm(&emulation, call, kN, kD);
    INFO(way.name);
    CHECK(same_bits(c.y, expected));
  }
}

TEST_CASE("packed copies of a norm are what packing it makes, byte for byte") {
  for (const Way& way : all_ways()) {
    for (const int d : {256, 768}) {
      Case c(d);
      gpu::ResidualNorm call = c.call(true);
      std::vector<DeviceBytes> rooms;
      std::array<int, 3> strides{};
      const std::array kinds{XKind::kBf16, XKind::kQ8, XKind::kQ8K};
      for (size_t k = 0; k < kinds.size(); ++k) {
        strides[k] = static_cast<int>(x_bytes(kinds[k], d));
        rooms.emplace_back(int64_t{kN} * strides[k]);
      }
      call.copies = {rooms[0].data(), rooms[1].data(), rooms[2].data(),
                     strides[0],      strides[1],      strides[2]};
      vgpu::Emulation emulation(way.options);
      gpu::kEmulatedOps.residual_norm(&emulation, call, kN, d);
      for (size_t k = 0; k < kinds.size(); ++k) {
        DeviceBytes expected(rooms[k].size());
        gpu::kEmulatedOps.pack_x(&emulation, kinds[k], c.normed.data(), kN, d, expected.data(),
                                 strides[k]);
        INFO(way.name << ", d " << d << ", kind " << k);
        CHECK(std::memcmp(rooms[k].data(), expected.data(), static_cast<size_t>(expected.size())) ==
              0);
      }
    }
  }
}

// residual_norm() and then product() are compared with float64 elsewhere.
TEST_CASE("a norm with products gives the bits of a norm and its products, and leaves y alone") {
  const DType types[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ5_0,
                         DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
  for (const Way& way : all_ways()) {
    for (const DType type : types) {
      const XKind kind = rounded_x_kind(type);
      // With packed copies, which want whole blocks, and an odd width.
      for (const int d : {768, kind == XKind::kFloat || kind == XKind::kBf16 ? 97 : 256}) {
        Case c(d);
        const bool copies = d == 768;
        const std::vector<float> before = c.y;
        RandomWeights random(c.rng, type, 21, d);
        const DeviceMatrix w(random.view());
        std::vector<float> out(kN * 21, -7.0F);
        std::vector<float> expected(out);
        const int stride = kind == XKind::kFloat ? d * 4 : static_cast<int>(x_bytes(kind, d));
        REQUIRE(gpu::can_norm_here(kind, kN, d, stride));
        DeviceBytes q8(int64_t{kN} * x_bytes(XKind::kQ8, 768));
        gpu::ResidualNorm call = c.call(true);
        call.addends[0] = {c.first.data(), nullptr};
        call.addends[1] = {c.gated.data(), c.gate.data()};
        if (copies) {
          call.copies.q8 = q8.data();
          call.copies.q8_stride = static_cast<int>(x_bytes(XKind::kQ8, d));
        }
        vgpu::Emulation emulation(way.options);
        gpu::kEmulatedOps.norm_product(&emulation, type, call,
                                       {{w.weights(), nullptr, out.data()}, {}, {}}, kN, d, stride);
        CHECK(emulation.stats().launches == 1);
        INFO(way.name << ", " << dtype_info(type).name << ", d " << d);
        CHECK(same_bits(c.y, before));
        const std::vector<float> normed = c.normed;
        const std::vector<uint8_t> packed(q8.data(), q8.data() + q8.size());
        gpu::kEmulatedOps.residual_norm(&emulation, call, kN, d);
        CHECK(same_bits(c.normed, normed));
        CHECK(std::memcmp(q8.data(), packed.data(), packed.size()) == 0);
        const PackedRowsOnGpu x(&emulation, type, normed, d);
        gpu::kEmulatedOps.product(&emulation, type,
                                  {{w.weights(), nullptr, expected.data()}, {}, {}}, x.view, kN);
        CHECK(same_bits(out, expected));
      }
    }
  }
}

TEST_CASE("operations on nothing launch nothing") {
  vgpu::Emulation emulation;
  const gpu::GpuOps& ops = gpu::kEmulatedOps;
  ops.residual_norm(&emulation, {}, 0, 8);
  ops.prepare_heads(&emulation, {}, {}, 0);
  ops.attention(&emulation, {}, nullptr, 0, 0, 1, 1, nullptr, nullptr);
  ops.pack_x(&emulation, XKind::kQ8, nullptr, 0, 64, nullptr, 192);
  ops.pack_x(&emulation, XKind::kBf16, nullptr, 0, 64, nullptr, 192);
  ops.product(&emulation, DType::kF32, {}, {}, 1);
  ops.product_few(&emulation, DType::kQ8_0, {}, nullptr, 1, 32, 64);
  ops.norm_product(&emulation, DType::kF32, {}, {}, 1, 8, 32);
  ops.expert_hidden(&emulation, DType::kF32, gpu::HiddenPart::kBoth, {}, {}, nullptr, 16, nullptr);
  ops.expert_output(&emulation, DType::kF32, {}, {}, 16, nullptr);
  ops.expert_output_few(&emulation, DType::kQ8_0, {}, nullptr, 32, 64, 16, nullptr);
  CHECK(emulation.stats().launches == 0);
}

}  // namespace tandem::testing
