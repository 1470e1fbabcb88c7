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

// Three experts of a layer with a few uses, none, and more.
struct Layer {
  static constexpr int kTokens = 11;

  DType type;
  Shape shape;
  std::array<int, 3> n_uses;
  std::mt19937 rng;
  std::vector<RandomWeights> random;  // gate, up, down of each expert
  std::vector<DeviceMatrix> matrices;
  std::vector<float> x;        // [kTokens, d]
  std::vector<int> tokens;     // of uses
  std::vector<float> weights;  // of uses
  std::vector<gpu::ExpertUses> experts;

  explicit Layer(DType the_type, int last_uses = 19)
      : type(the_type), shape(shape_of(the_type)), n_uses{3, 0, last_uses}, rng(7) {
    const auto [d, ff] = shape;
    for (size_t e = 0; e < n_uses.size(); ++e) {
      random.emplace_back(rng, type, ff, d);
      random.emplace_back(rng, type, ff, d);
      random.emplace_back(rng, type, d, ff);
    }
    for (const RandomWeights& w : random) matrices.emplace_back(w.view());
    x = random_floats(rng, kTokens * d, 0.05F);
    int first = 0;
    for (size_t e = 0; e < n_uses.size(); ++e) {
      experts.push_back({matrices[3 * e].weights(), matrices[3 * e + 1].weights(),
                         matrices[3 * e + 2].weights(), first, n_uses[e]});
      first += n_uses[e];
    }
    for (int u = 0; u < first; ++u) {
      tokens.push_back(static_cast<int>(rng() % kTokens));
      weights.push_back(0.1F + 0.01F * static_cast<float>(u));
    }
  }
  int uses() const { return static_cast<int>(tokens.size()); }
  size_t expert_of(int use) const { return use < n_uses[0] ? 0 : 2; }
};

void check_close(double expected, double magnitude, float got, int64_t cols) {
  const double tolerance = static_cast<double>(cols + 16) / (1 << 23);
  REQUIRE(std::abs(got - expected) <= tolerance * (magnitude + std::abs(expected)) + 1e-30);
}

// last_uses: of the expert with most.
void check_layer(const Way& way, DType type, int last_uses) {
  const Layer layer(type, last_uses);
  const auto [d, ff] = layer.shape;
  const XKind kind = rounded_x_kind(type);
  const gpu::ExpertCalls calls{
      layer.experts.data(), {}, static_cast<int>(layer.experts.size()), last_uses + 1};
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

// As it is cut between CPU and GPU: some rows of gate and up, the same columns of down.
void check_leading_part(const Way& way, DType type, int uses) {
  const Layer layer(type);
  const auto d = layer.shape.d;
  const int64_t block = std::max<int64_t>(dtype_info(type).block_elems, kGroupRows);
  const int64_t ff = 2 * block;
  std::mt19937 rng(11);
  const RandomWeights down(rng, type, d, ff);
  const DeviceMatrix on_gpu(down.view());
  gpu::ExpertUses part = layer.experts[0];
  part.gate.rows = static_cast<int>(std::min<int64_t>(16, layer.shape.ff));
  part.up.rows = part.gate.rows;
  part.down = on_gpu.weights();
  part.down.cols = static_cast<int>(block);
  part.n_uses = uses;
  const gpu::ExpertCalls calls{nullptr, part, 1, part.n_uses};
  vgpu::Emulation emulation(way.options);
  const PackedRowsOnGpu x(&emulation, type, layer.x, d);
  const auto stride = static_cast<int>(layer.shape.ff);
  std::vector<float> hidden(static_cast<size_t>(part.n_uses * stride), -7.0F);
  gpu::kEmulatedOps.expert_hidden(&emulation, type, gpu::HiddenPart::kBoth, calls, x.view,
                                  layer.tokens.data(), stride, hidden.data());
  INFO(dtype_info(type).name);
  for (int u = 0; u < part.n_uses; ++u) {
    CHECK(hidden[static_cast<size_t>(u * stride)] != -7.0F);
    if (part.gate.rows < stride) {
      CHECK(hidden[static_cast<size_t>(u * stride + part.gate.rows)] == -7.0F);
    }
  }
  // Columns behind the part hold NaN in another block, and are not read.
  std::vector<float> values = random_floats(rng, part.n_uses * ff);
  for (int u = 0; u < part.n_uses; ++u) values[static_cast<size_t>(u * ff + ff - 1)] = NAN;
  const PackedRowsOnGpu packed(&emulation, type, values, ff);
  std::vector<float> out(static_cast<size_t>(part.n_uses * d));
  gpu::kEmulatedOps.expert_output(&emulation, type, calls, packed.view, static_cast<int>(d),
                                  out.data());
  const std::vector<float> weights = down.dequantized();
  for (int u = 0; u < part.n_uses; ++u) {
    const std::vector<float> seen = as_packed(rounded_x_kind(type), values.data() + u * ff, block);
    for (int64_t r = 0; r < d; ++r) {
      const Dot dot = reference_dot(weights.data() + r * ff, seen.data(), block);
      check_close(dot.sum, dot.magnitude, out[static_cast<size_t>(u * d + r)], block);
    }
  }
}

}  // namespace

TEST_CASE("a layer's experts on a GPU agree with float64, whatever the type") {
  for (const DType type : kAllTypes) {
    for (const Way& way : all_ways()) {
      for (const int last_uses : {12, 19}) check_layer(way, type, last_uses);
    }
    for (const Way& way : few_ways_if_sanitized()) check_layer(way, type, 71);
  }
}

TEST_CASE("few uses of an expert are packed by the kernel that needs them, to the same bits") {
  for (const Way& way : all_ways()) {
    for (const DType type : kAllTypes) {
      const Layer layer(type);
      const auto [d, ff] = layer.shape;
      if (rounded_x_kind(type) == XKind::kFloat) continue;
      const gpu::ExpertCalls calls{layer.experts.data(), {}, 2, 3};  // the one with 19 is left out
      std::mt19937 rng(9);
      const std::vector<float> hidden = random_floats(rng, layer.uses() * ff);
      vgpu::Emulation emulation(way.options);
      const PackedRowsOnGpu packed(&emulation, type, hidden, ff);
      std::vector<float> expected(static_cast<size_t>(layer.uses() * d), -7.0F);
      std::vector<float> got = expected;
      gpu::kEmulatedOps.expert_output(&emulation, type, calls, packed.view, static_cast<int>(d),
                                      expected.data());
      gpu::kEmulatedOps.expert_output_few(&emulation, type, calls, hidden.data(),
                                          static_cast<int>(ff), packed.stride, static_cast<int>(d),
                                          got.data());
      INFO(way.name << ", " << dtype_info(type).name);
      CHECK(same_bits(got, expected));
      CHECK(got[0] != -7.0F);
    }
  }
}

TEST_CASE("gate and up one after the other give what both at once give") {
  const Way way = all_ways().front();
  for (const DType type : kAllTypes) {
    const Layer layer(type);
    const int64_t d = layer.shape.d;
    const int64_t ff = layer.shape.ff;
    const gpu::ExpertCalls calls{layer.experts.data(), {}, 3, 20};
    vgpu::Emulation emulation(way.options);
    const PackedRowsOnGpu x(&emulation, type, layer.x, d);
    const auto run = [&](gpu::HiddenPart part, std::vector<float>* hidden) {
      gpu::kEmulatedOps.expert_hidden(&emulation, type, part, calls, x.view, layer.tokens.data(),
                                      static_cast<int>(ff), hidden->data());
    };
    std::vector<float> both(static_cast<size_t>(layer.uses() * ff));
    std::vector<float> parts = both;
    run(gpu::HiddenPart::kBoth, &both);
    run(gpu::HiddenPart::kGate, &parts);
    run(gpu::HiddenPart::kUp, &parts);
    INFO(dtype_info(type).name);
    CHECK(same_bits(parts, both));
  }
}

TEST_CASE("a leading part of an expert touches its own hidden values and columns only") {
  const Way way = all_ways().front();
  for (const DType type : kAllTypes) {
    for (const int uses : {3, 12, 20}) check_leading_part(way, type, uses);
  }
}

}  // namespace tandem::testing
