#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/q8_blocks.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::as_seen_by;
using testing::as_stored;
using testing::IsaScope;
using testing::random_floats;
using testing::same_bits;

struct Shape {
  KvType type_k;
  KvType type_v;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t v_head_dim;
};

const Shape kShapes[] = {
    {KvType::kF32, KvType::kF32, 1, 1, 1, 1},       {KvType::kF32, KvType::kF32, 4, 4, 16, 16},
    {KvType::kF16, KvType::kF16, 8, 2, 64, 64},     {KvType::kF16, KvType::kF32, 6, 2, 24, 40},
    {KvType::kF32, KvType::kF16, 40, 1, 13, 7},     {KvType::kF16, KvType::kF16, 2, 1, 512, 512},
    {KvType::kF16, KvType::kF16, 12, 4, 192, 128},  {KvType::kQ8_0, KvType::kQ8_0, 8, 2, 64, 64},
    {KvType::kQ8_0, KvType::kF16, 3, 1, 96, 40},    {KvType::kF32, KvType::kQ8_0, 40, 1, 13, 160},
    {KvType::kQ8_0, KvType::kQ8_0, 2, 1, 512, 512}, {KvType::kQ8_0, KvType::kQ8_0, 9, 3, 32, 96},
};

// A sequence of n tokens with random queries, keys and values; the cache is full of NaN where
// nothing was appended.
class Sequence {
 public:
  Sequence(const Shape& shape, int64_t n, uint32_t seed) : shape_(shape), n_(n) {
    std::mt19937 rng(seed);
    q_ = random_floats(rng, n * shape.n_heads * shape.head_dim);
    k_ = random_floats(rng, n * shape.n_kv_heads * shape.head_dim);
    v_ = random_floats(rng, n * shape.n_kv_heads * shape.v_head_dim);
    store();
  }

  // Keys and values of a position in all KV heads times a factor.
  void multiply(int64_t t, float of_key, float of_value) {
    const auto row = [&](std::vector<float>* x, int64_t dim, float factor) {
      for (int64_t i = 0; i < shape_.n_kv_heads * dim; ++i) {
        (*x)[static_cast<size_t>(t * shape_.n_kv_heads * dim + i)] *= factor;
      }
    };
    row(&k_, shape_.head_dim, of_key);
    row(&v_, shape_.v_head_dim, of_value);
    store();
  }
  void set_scale(float scale) { scale_ = scale; }

  float scale() const {
    return scale_ > 0 ? scale_ : 1.5F / std::sqrt(static_cast<float>(shape_.head_dim));
  }

  // Appends and attends a prompt at once, then `batch` tokens at a time, as an engine does.
  std::vector<float> run(int64_t batch, ParallelFor parallel, int64_t prompt = 0) const {
    const int64_t n_ctx = n_ + 40;
    const KvShape kv{shape_.type_k, shape_.type_v, shape_.n_kv_heads, shape_.head_dim,
                     shape_.v_head_dim};
    std::vector<std::byte> k(static_cast<size_t>(kv.k_bytes(n_ctx)), std::byte{0xFF});
    std::vector<std::byte> v(static_cast<size_t>(kv.v_bytes(n_ctx)), std::byte{0xFF});
    const KvView cache{kv, k.data(), v.data()};
    Workspace scratch;
    std::vector<float> out(static_cast<size_t>(n_ * shape_.n_heads * shape_.v_head_dim),
                           std::numeric_limits<float>::quiet_NaN());
    int64_t count = 0;
    for (int64_t t = 0; t < n_; t += count) {
      count = std::min(t < prompt ? prompt : batch, n_ - t);
      const NewTokens tokens{q_.data() + t * shape_.n_heads * shape_.head_dim,
                             k_.data() + t * shape_.n_kv_heads * shape_.head_dim,
                             v_.data() + t * shape_.n_kv_heads * shape_.v_head_dim, t, count};
      attention(cache, tokens, shape_.n_heads, scale(),
                out.data() + t * shape_.n_heads * shape_.v_head_dim, scratch, parallel);
    }
    return out;
  }

  // Two passes over the keys in float64, one query at a time.
  std::vector<double> reference(int64_t t, int64_t h) const {
    const int64_t kv = h / (shape_.n_heads / shape_.n_kv_heads);
    const float* q = q_.data() + (t * shape_.n_heads + h) * shape_.head_dim;
    // Keys in q8_0 take rounded queries.
    const std::vector<float> query = shape_.type_k == KvType::kQ8_0
                                         ? as_seen_by(DType::kQ8_0, q, shape_.head_dim)
                                         : std::vector<float>(q, q + shape_.head_dim);
    std::vector<double> scores;
    for (int64_t j = 0; j <= t; ++j) {
      const float* key = stored_k_.data() + (j * shape_.n_kv_heads + kv) * shape_.head_dim;
      scores.push_back(testing::reference_dot(query.data(), key, shape_.head_dim).sum *
                       static_cast<double>(scale()));
    }
    const double max = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    std::vector<double> out(static_cast<size_t>(shape_.v_head_dim));
    for (int64_t j = 0; j <= t; ++j) {
      const double weight = std::exp(scores[static_cast<size_t>(j)] - max);
      total += weight;
      const float* value = stored_v_.data() + (j * shape_.n_kv_heads + kv) * shape_.v_head_dim;
      for (size_t c = 0; c < out.size(); ++c) out[c] += weight * static_cast<double>(value[c]);
    }
    for (double& value : out) value /= total;
    return out;
  }

 private:
  // What the cache will hold, head by head.
  void store() {
    const auto rows = [&](KvType type, const std::vector<float>& x, int64_t dim) {
      std::vector<float> out;
      for (size_t i = 0; i < x.size(); i += static_cast<size_t>(dim)) {
        const std::vector<float> row = as_stored(type, x.data() + i, dim);
        out.insert(out.end(), row.begin(), row.end());
      }
      return out;
    };
    stored_k_ = rows(shape_.type_k, k_, shape_.head_dim);
    stored_v_ = rows(shape_.type_v, v_, shape_.v_head_dim);
  }

  Shape shape_;
  int64_t n_;
  std::vector<float> q_;
  std::vector<float> k_;
  std::vector<float> v_;
  std::vector<float> stored_k_;
  std::vector<float> stored_v_;
  float scale_ = 0;  // 0: that of the head
};

TEST_CASE("attention matches float64 for grouped heads and every cache type") {
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const Shape& shape : kShapes) {
      for (const int64_t n : {1, 2, 75, 130}) {
        const Sequence sequence(shape, n, 11);
        const std::vector<float> out = sequence.run(n, serial_for);
        INFO(ops->name << " head_dim " << shape.head_dim << " n " << n);
        for (int64_t t = 0; t < n; ++t) {
          for (int64_t h = 0; h < shape.n_heads; ++h) {
            const std::vector<double> expected = sequence.reference(t, h);
            const float* got = out.data() + (t * shape.n_heads + h) * shape.v_head_dim;
            for (size_t c = 0; c < expected.size(); ++c) {
              REQUIRE(std::abs(static_cast<double>(got[c]) - expected[c]) < 4e-6);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("attention has the same bits in every batch split and on any threads") {
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const Shape& shape : kShapes) {
      const Sequence sequence(shape, 145, 12);
      const std::vector<float> whole = sequence.run(145, serial_for);
      INFO(ops->name << " head_dim " << shape.head_dim);
      for (const int64_t batch : {1, 7, 32, 64})
        CHECK(same_bits(whole, sequence.run(batch, serial_for)));
      CHECK(same_bits(whole, sequence.run(145, testing::reverse_for)));
      CHECK(same_bits(whole, sequence.run(10, testing::threads_for)));
    }
  }
}

// Longer than the spans that keys are cut into; a batch may begin in one and end in the next.
TEST_CASE("long sequences match float64, with the same bits in every batch split") {
  const Shape shapes[] = {{KvType::kF32, KvType::kF32, 5, 1, 13, 7},
                          {KvType::kF16, KvType::kF16, 4, 2, 32, 32},
                          {KvType::kQ8_0, KvType::kQ8_0, 2, 1, 32, 32}};
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const Shape& shape : shapes) {
      const int64_t n = 1050;
      INFO(ops->name << " head_dim " << shape.head_dim);
      const Sequence sequence(shape, n, 13);
      const std::vector<float> whole = sequence.run(n, serial_for);
      for (const int64_t t : {int64_t{0}, int64_t{511}, int64_t{512}, n - 1}) {
        for (int64_t h = 0; h < shape.n_heads; ++h) {
          const std::vector<double> expected = sequence.reference(t, h);
          const float* got = whole.data() + (t * shape.n_heads + h) * shape.v_head_dim;
          for (size_t c = 0; c < expected.size(); ++c) {
            REQUIRE(std::abs(static_cast<double>(got[c]) - expected[c]) < 4e-6);
          }
        }
      }
      for (const int64_t batch : {1, 3, 6}) {
        CHECK(same_bits(whole, sequence.run(batch, serial_for, 500)));
        CHECK(same_bits(whole, sequence.run(batch, testing::reverse_for, 1010)));
      }
      CHECK(same_bits(whole, sequence.run(100, serial_for)));
      CHECK(same_bits(whole, sequence.run(5, testing::threads_for, 1010)));
    }
  }
}

// Keys and values of very different sizes in one cache, down to what f16 (scales in q8_0) holds as
// denormals and no more, and up to what it holds at most: random values stay below six.
TEST_CASE("attention matches float64 for tiny, huge and missing keys and values") {
  constexpr int64_t kN = 70;
  struct Case {
    KvType type;
    float largest;
  };
  const Case cases[] = {{KvType::kQ8_0, 1e6F}, {KvType::kF16, 1e4F}, {KvType::kF32, 1e18F}};
  for (size_t i = 0; i < 3 * all_isas().size(); ++i) {
    const SimdOps* ops = all_isas()[i / 3];
    const Case& c = cases[i % 3];
    const IsaScope isa(ops);
    const float factors[] = {1.0F, 0.0F, 1e-3F, 1e-7F, 1e-12F, 1e-40F, 1e3F, c.largest};
    Sequence sequence({c.type, c.type, 4, 2, 64, 32}, kN, 14);
    for (int64_t t = 0; t < kN; ++t) {
      sequence.multiply(t, factors[t % 8], factors[(t / 8 + t) % 8]);
    }
    sequence.set_scale(1 / c.largest);  // so that scores of the largest are small
    const std::vector<float> out = sequence.run(kN, serial_for);
    CHECK(same_bits(out, sequence.run(3, serial_for)));
    INFO(ops->name << " cache type " << static_cast<int>(c.type));
    for (int64_t t = 0; t < kN; ++t) {
      for (int64_t h = 0; h < 4; ++h) {
        const std::vector<double> expected = sequence.reference(t, h);
        double largest = 1e-30;
        for (const double v : expected) largest = std::max(largest, std::abs(v));
        for (size_t c = 0; c < expected.size(); ++c) {
          const double got = static_cast<double>(out[static_cast<size_t>(t * 4 + h) * 32 + c]);
          REQUIRE(std::abs(got - expected[c]) <= 1e-5 * largest);
        }
      }
    }
  }
}

TEST_CASE("scores too large for exp do not overflow the softmax") {
  const std::vector<float> q = {1.0F, 1.0F, 1.0F};
  const std::vector<float> k = {10.0F, -500.0F, 1000.0F};
  const std::vector<float> v = {1.0F, 2.0F, 3.0F};
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    INFO(ops->name);
    const KvShape shape{KvType::kF32, KvType::kF32, 1, 1, 1};
    std::vector<std::byte> cache_k(static_cast<size_t>(shape.k_bytes(3)));
    std::vector<std::byte> cache_v(static_cast<size_t>(shape.v_bytes(3)));
    std::vector<float> out(3);
    Workspace scratch;
    attention({shape, cache_k.data(), cache_v.data()}, {q.data(), k.data(), v.data(), 0, 3}, 1,
              1.0F, out.data(), scratch, serial_for);
    CHECK(out == std::vector<float>{1.0F, 1.0F, 3.0F});
  }
}

}  // namespace
}  // namespace tandem
