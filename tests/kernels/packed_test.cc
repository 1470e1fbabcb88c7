#include "kernels/packed.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/dense.h"
#include "kernels/expert_ffn.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::as_seen_by;
using testing::IsaScope;
using testing::kAllTypes;
using testing::Packed;
using testing::product;
using testing::random_floats;
using testing::RandomWeights;
using testing::same_bits;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("packing takes no byte more, and every row comes back as it was") {
  std::mt19937 rng(51);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const int64_t cols = dtype_info(type).block_elems == 1 ? 70 : 768;
      const RandomWeights w(rng, type, 48, cols, 1);
      INFO(ops->name << " " << dtype_info(type).name);
      REQUIRE(can_pack(w.view()));
      CHECK(packed_bytes(type, cols) == w.view().row_bytes() * kGroupRows);
      const Packed packed(w.view());
      std::vector<std::byte> row(static_cast<size_t>(w.view().row_bytes()));
      for (int64_t r = 0; r < 48; ++r) {
        unpack_row(packed.view(), r, row.data());
        REQUIRE(std::memcmp(row.data(), w.view().data + r * w.view().row_bytes(), row.size()) == 0);
      }
    }
  }
}

TEST_CASE("what makes no whole groups or dwords is not packed") {
  std::mt19937 rng(52);
  CHECK_FALSE(can_pack(RandomWeights(rng, DType::kQ8_0, 40, 32).view()));
  CHECK_FALSE(can_pack(RandomWeights(rng, DType::kBF16, 16, 33).view()));
  CHECK(can_pack(RandomWeights(rng, DType::kF32, 16, 33).view()));
}

TEST_CASE("products have the same bits with packed weights, also in parts of an expert") {
  std::mt19937 rng(53);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const RandomWeights w(rng, type, 80, 512);
      const Packed packed(w.view());
      INFO(ops->name << " " << dtype_info(type).name);
      for (const int64_t n : {1, 5, 30}) {
        const std::vector<float> x = random_floats(rng, n * 512);
        CHECK(same_bits(product(w.view(), x), product(packed.view(), x)));
      }
      const RandomWeights gate(rng, type, 512, 256);
      const RandomWeights up(rng, type, 512, 256);
      const RandomWeights down(rng, type, 256, 512);
      const Packed p_gate(gate.view());
      const Packed p_up(up.view());
      const Packed p_down(down.view());
      const std::vector<float> x = random_floats(rng, 2 * 256);
      const std::vector<ExpertRow> rows{{1, 0.5F}, {0, 2.0F}};
      const auto run = [&](const ExpertWeights& whole) {
        std::vector<float> y(x.size());
        std::vector<float> hidden(2 * 512);
        Workspace scratch;
        for (const auto& [begin, end] : {std::pair{0, 256}, {256, 512}}) {
          const std::vector<ExpertCall> calls{{expert_part(whole, begin, end), rows}};
          expert_ffn(calls, x.data(), 2, 256, y.data(), hidden.data(), scratch, serial_for);
        }
        return y;
      };
      CHECK(same_bits(run({gate.view(), up.view(), down.view()}),
                      run({p_gate.view(), p_up.view(), p_down.view()})));
      CHECK(test::dies([&] { expert_part({p_gate.view(), p_up.view(), p_down.view()}, 0, 8); }));
    }
  }
}

TEST_CASE("activations are rounded to the same bytes by every instruction set") {
  std::mt19937 rng(54);
  std::vector<float> x = random_floats(rng, 768);
  x[3] = 40.0F;                                                        // an outlier
  std::fill(x.begin() + 256, x.begin() + 512, 0.0F);                   // a block without a scale
  for (int i = 512; i < 544; ++i) x[static_cast<size_t>(i)] = 1e-42F;  // denormal
  for (const XKind kind : {XKind::kBf16, XKind::kQ8, XKind::kQ8K}) {
    const auto bytes = static_cast<size_t>(x_bytes(kind, 768));
    std::vector<std::byte> want;
    for (const SimdOps* ops : all_isas()) {
      if (ops->pack_x == nullptr) continue;
      const IsaScope isa(ops);
      std::vector<std::byte> got(bytes);
      pack_x(kind, x.data(), 768, got.data());
      if (want.empty()) want = got;
      INFO(ops->name << " kind " << static_cast<int>(kind));
      CHECK(got == want);
    }
  }
}

TEST_CASE("a value that is not finite shows in every product of its row, whatever is rounded") {
  std::mt19937 rng(55);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const RandomWeights w(rng, type, 16, 256);
      for (const float bad : {kInf, -kInf, kNan}) {
        std::vector<float> x = random_floats(rng, 256);
        x[200] = bad;
        INFO(ops->name << " " << dtype_info(type).name << " " << bad);
        for (const float y : product(w.view(), x)) CHECK_FALSE(std::isfinite(y));
      }
    }
  }
}

TEST_CASE("what stands behind a row of an odd number of columns has no part in its product") {
  std::mt19937 rng(57);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      const RandomWeights w(rng, type, 16, 33);
      std::vector<float> x = random_floats(rng, 34);
      x[33] = kNan;
      std::vector<float> y(16);
      Workspace scratch;
      const MatmulPart part{w.view(), nullptr, y.data()};
      matmul({&part, 1}, x.data(), 1, scratch, serial_for);
      INFO(ops->name << " " << dtype_info(type).name);
      for (const float v : y) CHECK(std::isfinite(v));
    }
  }
}

TEST_CASE("extreme activations lose no more than their rounding") {
  std::mt19937 rng(56);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const RandomWeights w(rng, type, 16, 256);
      const std::vector<float> weights = w.dequantized();
      for (const float scale : {1e-30F, 1e-6F, 1e6F, 1e30F}) {
        const std::vector<float> x = random_floats(rng, 256, scale);
        const std::vector<float> seen = as_seen_by(type, x.data(), 256);
        const std::vector<float> y = product(w.view(), x);
        for (size_t r = 0; r < y.size(); ++r) {
          const auto dot = testing::reference_dot(weights.data() + r * 256, seen.data(), 256);
          INFO(ops->name << " " << dtype_info(type).name << " scale " << scale);
          CHECK(std::abs(y[r] - dot.sum) <= 70.0 / (1 << 24) * dot.magnitude);
        }
      }
    }
  }
}

TEST_CASE("silu times up matches float64 over the whole range, at any length") {
  for (const SimdOps* ops : all_isas()) {
    INFO(ops->name);
    std::vector<float> gate;
    for (float v = -120.0F; v <= 120.0F; v += 0.37F) gate.push_back(v);
    for (const float v : {0.0F, -0.0F, 1e-20F, -1e30F, 1e30F, 88.7F, -88.7F, -103.9F}) {
      gate.push_back(v);
    }
    const std::vector<float> up(gate.size(), 1.5F);
    std::vector<float> got = gate;
    ops->silu_mul(got.data(), up.data(), static_cast<int64_t>(got.size()));
    for (size_t i = 0; i < gate.size(); ++i) {
      const double g = gate[i];
      const double want = g / (1.0 + std::exp(-g)) * 1.5;
      INFO("gate " << g);
      // Where exp() leaves the range of f32, so does the quotient: towards zero.
      CHECK(std::abs(got[i] - want) <= 4e-7 * std::abs(want) + 1e-36);
    }
    for (size_t n = 0; n < 40; ++n) {
      std::vector<float> part(gate.begin(), gate.begin() + 40);
      ops->silu_mul(part.data(), up.data(), static_cast<int64_t>(n));
      for (size_t i = 0; i < 40; ++i) {
        CHECK(part[i] == (i < n ? got[i] : gate[i]));
      }
    }
    std::vector<float> bad{kNan};
    ops->silu_mul(bad.data(), up.data(), 1);
    CHECK(std::isnan(bad[0]));
  }
}

}  // namespace
}  // namespace tandem
