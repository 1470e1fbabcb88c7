#include "kernels/attention.h"

#include <limits>

#include "kernels/elementwise.h"
#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

struct Shape {
  KvType type_k;
  KvType type_v;
  int n_heads;
  int n_kv_heads;
  int head_dim;
  int v_head_dim;
};

const Shape kShapes[] = {
    {KvType::kF32, KvType::kF32, 1, 1, 1, 1},      {KvType::kF32, KvType::kF32, 4, 4, 16, 16},
    {KvType::kF16, KvType::kF16, 8, 2, 64, 64},    {KvType::kF16, KvType::kF32, 6, 2, 24, 40},
    {KvType::kF32, KvType::kF16, 40, 1, 13, 7},    {KvType::kF16, KvType::kF16, 2, 1, 512, 512},
    {KvType::kF16, KvType::kF16, 12, 4, 192, 128}, {KvType::kF16, KvType::kF16, 3, 3, 33, 65},
};

float as_stored(KvType type, float v) {
  return type == KvType::kF16 ? f16_to_f32(f32_to_f16(v)) : v;
}

// A sequence whose tokens are appended and attended in batches; the cache is full of NaN where
// nothing was appended.
class Sequence {
 public:
  Sequence(const Shape& shape, int n, const std::vector<int>& batches, const Way& way)
      : shape_(shape), n_(n) {
    std::mt19937 rng(static_cast<unsigned>(n + shape.head_dim));
    q_ = random_floats(rng, n * shape.n_heads * shape.head_dim);
    k_ = random_floats(rng, n * shape.n_kv_heads * shape.head_dim);
    v_ = random_floats(rng, n * shape.n_kv_heads * shape.v_head_dim);
    const KvShape kv{shape.type_k, shape.type_v, shape.n_kv_heads, shape.head_dim,
                     shape.v_head_dim};
    DeviceBytes cache_k(kv.k_bytes(n));
    DeviceBytes cache_v(kv.v_bytes(n));
    std::memset(cache_k.data(), 0xFF, static_cast<size_t>(cache_k.size()));
    std::memset(cache_v.data(), 0xFF, static_cast<size_t>(cache_v.size()));
    const gpu::KvCache cache{shape.type_k == KvType::kF16,
                             shape.type_v == KvType::kF16,
                             shape.n_kv_heads,
                             shape.head_dim,
                             shape.v_head_dim,
                             cache_k.data(),
                             cache_v.data()};
    out_.assign(static_cast<size_t>(n * shape.n_heads * shape.v_head_dim), -7.0F);
    vgpu::Emulation emulation(way.options);
    int at = 0;
    for (const int batch : batches) {
      const int64_t t = at;
      gpu::kEmulatedOps.kv_append(&emulation, cache,
                                  k_.data() + t * shape.n_kv_heads * shape.head_dim,
                                  v_.data() + t * shape.n_kv_heads * shape.v_head_dim, at, batch);
      std::vector<float> scratch(static_cast<size_t>(
          gpu::attention_scratch_floats(at, batch, shape.n_heads, shape.v_head_dim)));
      gpu::kEmulatedOps.attention(&emulation, cache, q_.data() + t * shape.n_heads * shape.head_dim,
                                  at, batch, shape.n_heads, scale(), scratch.data(),
                                  out_.data() + t * shape.n_heads * shape.v_head_dim);
      at += batch;
    }
    REQUIRE(at == n);
  }

  // Largest error against float64, in units of the largest value that can come out.
  double error() const {
    double worst = 0;
    const int per_kv = shape_.n_heads / shape_.n_kv_heads;
    for (int t = 0; t < n_; ++t) {
      for (int h = 0; h < shape_.n_heads; ++h) {
        const float* query =
            q_.data() + (static_cast<int64_t>(t) * shape_.n_heads + h) * shape_.head_dim;
        std::vector<double> weights;
        double most = -std::numeric_limits<double>::infinity();
        for (int j = 0; j <= t; ++j) {
          const float* key =
              k_.data() +
              (static_cast<int64_t>(j) * shape_.n_kv_heads + h / per_kv) * shape_.head_dim;
          double score = 0;
          for (int c = 0; c < shape_.head_dim; ++c) {
            score += static_cast<double>(query[c]) * as_stored(shape_.type_k, key[c]);
          }
          weights.push_back(score * scale());
          most = std::max(most, weights.back());
        }
        double sum = 0;
        for (double& w : weights) sum += w = std::exp(w - most);
        for (int c = 0; c < shape_.v_head_dim; ++c) {
          double expected = 0;
          double magnitude = 0;
          for (int j = 0; j <= t; ++j) {
            const double value = as_stored(
                shape_.type_v,
                v_[static_cast<size_t>((static_cast<int64_t>(j) * shape_.n_kv_heads + h / per_kv) *
                                           shape_.v_head_dim +
                                       c)]);
            expected += weights[static_cast<size_t>(j)] / sum * value;
            magnitude = std::max(magnitude, std::abs(value));
          }
          const float got = out_[static_cast<size_t>(
              (static_cast<int64_t>(t) * shape_.n_heads + h) * shape_.v_head_dim + c)];
          const double error = std::abs(got - expected) / magnitude;
          worst = error <= worst ? worst : error;  // NaN is worse than anything
        }
      }
    }
    return worst;
  }

 private:
  float scale() const { return 1.5F / std::sqrt(static_cast<float>(shape_.head_dim)); }

  Shape shape_;
  int n_;
  std::vector<float> q_, k_, v_, out_;
};

}  // namespace

TEST_CASE("attention on a GPU agrees with float64 in f32's precision") {
  for (const Way& way : all_ways()) {
    for (const Shape& shape : kShapes) {
      const Sequence sequence(shape, 75, {70, 1, 3, 1}, way);
      INFO(way.name << ", " << shape.n_heads << " heads of " << shape.head_dim << " and "
                    << shape.v_head_dim);
      CHECK(sequence.error() <= 2e-5);
    }
  }
}

TEST_CASE("a GPU joins the spans of a long sequence") {
  for (const Shape& shape : {Shape{KvType::kF16, KvType::kF16, 4, 1, 32, 48},
                             Shape{KvType::kF32, KvType::kF32, 2, 2, 8, 8}}) {
    const Sequence sequence(shape, 1094, {500, 1, 25, 498, 33, 5, 32}, all_ways().front());
    CHECK(sequence.error() <= 2e-5);
  }
}

TEST_CASE("RoPE on a GPU turns pairs as the CPU does") {
  for (const Way& way : all_ways()) {
    for (const RopeStyle style : {RopeStyle::kHalves, RopeStyle::kInterleaved}) {
      constexpr int kN = 3;
      constexpr int kHeads = 5;
      constexpr int kDim = 24;
      constexpr int kRot = 16;
      RopeParams params;
      params.style = style;
      params.n_rot = kRot;
      std::vector<float> table(kN * kRot);
      rope_table(params, 9, kN, table.data());
      std::mt19937 rng(2);
      std::vector<float> x = random_floats(rng, kN * kHeads * kDim);
      std::vector<float> expected = x;
      rope_apply(style, table.data(), kRot, kN, kHeads, kDim, expected.data(), kHeads * kDim);
      vgpu::Emulation emulation(way.options);
      gpu::kEmulatedOps.rope(&emulation, table.data(), style == RopeStyle::kHalves, kRot, kN,
                             kHeads, kDim, x.data());
      INFO(way.name);
      CHECK(same_bits(x, expected));
    }
  }
}

}  // namespace tandem::testing
