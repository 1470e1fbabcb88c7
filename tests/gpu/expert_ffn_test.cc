#include <array>

#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

struct Shape {
  int64_t d;
  int64_t ff;
};

Shape shape_of(DType type) {
  const int64_t block = dtype_info(type).block_elems;
  if (block == 1) return {40, 22};
  return {2 * block, block == 32 ? 96 : 256};
}

// Three experts of a layer with a few uses, none, and many.
struct Layer {
  static constexpr std::array<int, 3> kUses{3, 0, 19};
  static constexpr int kTokens = 11;

  DType type;
  Shape shape;
  std::mt19937 rng;
  std::vector<RandomWeights> random;  // gate, up, down of each expert
  std::vector<DeviceMatrix> matrices;
  std::vector<float> x;        // [kTokens, d]
  std::vector<int> tokens;     // of uses
  std::vector<float> weights;  // of uses
  std::vector<gpu::ExpertUses> experts;

  explicit Layer(DType the_type) : type(the_type), shape(shape_of(the_type)), rng(7) {
    const auto [d, ff] = shape;
    for (size_t e = 0; e < kUses.size(); ++e) {
      random.emplace_back(rng, type, ff, d);
      random.emplace_back(rng, type, ff, d);
      random.emplace_back(rng, type, d, ff);
    }
    for (const RandomWeights& w : random) matrices.emplace_back(w.view());
    x = random_floats(rng, kTokens * d, 0.05F);
    int first = 0;
    for (size_t e = 0; e < kUses.size(); ++e) {
      experts.push_back({matrices[3 * e].weights(), matrices[3 * e + 1].weights(),
                         matrices[3 * e + 2].weights(), first, kUses[e]});
      first += kUses[e];
    }
    for (int u = 0; u < first; ++u) {
      tokens.push_back(static_cast<int>(rng() % kTokens));
      weights.push_back(0.1F + 0.01F * static_cast<float>(u));
    }
  }
  int uses() const { return static_cast<int>(tokens.size()); }
  size_t expert_of(int use) const { return use < kUses[0] ? 0 : 2; }
};

void check_close(double expected, double magnitude, float got, int64_t cols) {
  const double tolerance = static_cast<double>(cols + 16) / (1 << 23);
  REQUIRE(std::abs(got - expected) <= tolerance * (magnitude + std::abs(expected)) + 1e-30);
}

void check_layer(const Way& way, DType type) {
  const Layer layer(type);
  const auto [d, ff] = layer.shape;
  const XKind kind = rounded_x_kind(type);
  const gpu::ExpertCalls calls{
      layer.experts.data(), {}, static_cast<int>(layer.experts.size()), 20};
  vgpu::Emulation emulation(way.options);

  const PackedRowsOnGpu x(&emulation, type, layer.x, d);
  std::vector<float> hidden(static_cast<size_t>(layer.uses() * ff), -7.0F);
  gpu::kEmulatedOps.expert_hidden(&emulation, type, gpu::HiddenPart::kBoth, calls, x.view,
                                  layer.tokens.data(), static_cast<int>(ff), hidden.data());
  for (int u = 0; u < layer.uses(); ++u) {
    const std::vector<float> seen =
        as_packed(kind, layer.x.data() + layer.tokens[static_cast<size_t>(u)] * d, d);
    const size_t e = layer.expert_of(u);
    const std::vector<float> gate = layer.random[3 * e].dequantized();
    const std::vector<float> up = layer.random[3 * e + 1].dequantized();
    for (int64_t r = 0; r < ff; ++r) {
      const Dot g = reference_dot(gate.data() + r * d, seen.data(), d);
      const Dot v = reference_dot(up.data() + r * d, seen.data(), d);
      const double silu = g.sum / (1 + std::exp(-g.sum));
      // SiLU's slope is at most 1.1.
      const double magnitude = 1.1 * g.magnitude * std::abs(v.sum) + std::abs(silu) * v.magnitude;
      INFO(way.name << ", " << dtype_info(type).name << ": use " << u << " hidden " << r);
      check_close(silu * v.sum, magnitude, hidden[static_cast<size_t>(u * ff + r)], d);
    }
  }

  const PackedRowsOnGpu packed(&emulation, type, hidden, ff);
  std::vector<float> out(static_cast<size_t>(layer.uses() * d), -7.0F);
  gpu::kEmulatedOps.expert_output(&emulation, type, calls, packed.view, static_cast<int>(d),
                                  out.data());
  for (int u = 0; u < layer.uses(); ++u) {
    const std::vector<float> seen = as_packed(kind, hidden.data() + u * ff, ff);
    const std::vector<float> down = layer.random[3 * layer.expert_of(u) + 2].dequantized();
    for (int64_t r = 0; r < d; ++r) {
      const Dot dot = reference_dot(down.data() + r * ff, seen.data(), ff);
      INFO(way.name << ", " << dtype_info(type).name << ": use " << u << " output " << r);
      check_close(dot.sum, dot.magnitude, out[static_cast<size_t>(u * d + r)], ff);
    }
  }
}

}  // namespace

TEST_CASE("a layer's experts on a GPU agree with float64, whatever the type") {
  for (const Way& way : all_ways()) {
    for (const DType type : kAllTypes) check_layer(way, type);
  }
}

TEST_CASE("the uses of experts are added to their tokens in the order given") {
  for (const Way& way : all_ways()) {
    constexpr int kN = 3;
    constexpr int kD = 300;
    constexpr int kUses = 5;
    std::mt19937 rng(4);
    const std::vector<float> out = random_floats(rng, kUses * kD);
    const std::vector<float> weights = random_floats(rng, kUses);
    const std::vector<int> begin{0, 3, 3, 5};
    const std::vector<int> uses{4, 0, 2, 1, 3};
    std::vector<float> y = random_floats(rng, kN * kD);
    std::vector<float> expected = y;
    for (size_t t = 0; t < kN; ++t) {
      for (int i = begin[t]; i < begin[t + 1]; ++i) {
        const auto use = static_cast<size_t>(uses[static_cast<size_t>(i)]);
        for (size_t c = 0; c < kD; ++c) {
          expected[t * kD + c] = std::fma(weights[use], out[use * kD + c], expected[t * kD + c]);
        }
      }
    }
    vgpu::Emulation emulation(way.options);
    gpu::kEmulatedOps.combine(&emulation, out.data(), {begin.data(), uses.data(), weights.data()},
                              kN, kD, y.data());
    INFO(way.name);
    CHECK(same_bits(y, expected));
  }
}

}  // namespace tandem::testing
