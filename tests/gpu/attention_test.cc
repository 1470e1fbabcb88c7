#include "kernels/attention.h"

#include <limits>

#include "kernels/elementwise.h"
#include "tests/gpu/gpu_testing.h"
#include "tests/kernels/q8_blocks.h"
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
    {KvType::kQ8_0, KvType::kQ8_0, 8, 2, 64, 64},  {KvType::kQ8_0, KvType::kF16, 3, 1, 96, 40},
    {KvType::kF32, KvType::kQ8_0, 10, 1, 13, 160}, {KvType::kQ8_0, KvType::kQ8_0, 1, 1, 512, 512},
};

// A sequence whose tokens are appended and attended in batches; the cache is full of NaN where
// nothing was appended.
class Sequence {
 public:
  Sequence(const Shape& shape, int n, const std::vector<int>& batches, const Way& way,
           float value_size = 1)
      : shape_(shape), n_(n) {
    std::mt19937 rng(static_cast<unsigned>(n + shape.head_dim));
    q_ = random_floats(rng, n * shape.n_heads * shape.head_dim);
    k_ = random_floats(rng, n * shape.n_kv_heads * shape.head_dim);
    v_ = random_floats(rng, n * shape.n_kv_heads * shape.v_head_dim);
    for (float& v : v_) v *= value_size;
    const KvShape kv{shape.type_k, shape.type_v, shape.n_kv_heads, shape.head_dim,
                     shape.v_head_dim};
    DeviceBytes cache_k(kv.k_bytes(n));
    DeviceBytes cache_v(kv.v_bytes(n));
    std::memset(cache_k.data(), 0xFF, static_cast<size_t>(cache_k.size()));
    std::memset(cache_v.data(), 0xFF, static_cast<size_t>(cache_v.size()));
    const gpu::KvCache cache{shape.type_k,     shape.type_v,   shape.n_kv_heads, shape.head_dim,
                             shape.v_head_dim, cache_k.data(), cache_v.data()};
    int first_pos = 0;
    gpu::KvCache cache_of_memory = cache;
    cache_of_memory.first_pos = &first_pos;
    out_.assign(static_cast<size_t>(n * shape.n_heads * shape.v_head_dim), -7.0F);
    vgpu::Emulation emulation(way.options);
    int at = 0;
    for (const int batch : batches) {
      const int64_t t = at;
      gpu::PreparedHeads heads{};  // neither norm nor rotation
      std::vector<float> q(static_cast<size_t>(batch * shape.n_heads * shape.head_dim));
      heads.q = q_.data() + t * shape.n_heads * shape.head_dim;
      heads.k = k_.data() + t * shape.n_kv_heads * shape.head_dim;
      heads.v = v_.data() + t * shape.n_kv_heads * shape.v_head_dim;
      heads.n_heads = shape.n_heads;
      heads.first_pos = at;
      heads.q_out = q.data();
      // Every other batch begins where device memory says; the call's own number is a later one.
      const bool from_memory = at % 2 != 0;
      first_pos = at;
      const int said = from_memory ? (at + batch + 511) / 512 * 512 - batch : at;
      if (from_memory) heads.first_pos = -1;
      const gpu::KvCache& seen = from_memory ? cache_of_memory : cache;
      gpu::kEmulatedOps.prepare_heads(&emulation, heads, seen, batch);
      std::vector<float> scratch(static_cast<size_t>(
          gpu::attention_scratch_floats(said, batch, shape.n_heads, shape.v_head_dim)));
      gpu::kEmulatedOps.attention(&emulation, seen, q.data(), said, batch, shape.n_heads, scale(),
                                  scratch.data(),
                                  out_.data() + t * shape.n_heads * shape.v_head_dim);
      at += batch;
    }
    REQUIRE(at == n);
  }

  // Largest error against float64, in units of the largest value that can come out.
  double error() const {
    double worst = 0;
    const int per_kv = shape_.n_heads / shape_.n_kv_heads;
    const std::vector<float> keys = rows(shape_.type_k, k_, shape_.head_dim);
    const std::vector<float> values = rows(shape_.type_v, v_, shape_.v_head_dim);
    // Keys in q8_0 take rounded queries.
    const XKind kind = shape_.type_k == KvType::kQ8_0 ? XKind::kQ8 : XKind::kFloat;
    for (int t = 0; t < n_; ++t) {
      for (int h = 0; h < shape_.n_heads; ++h) {
        const int64_t row = static_cast<int64_t>(t) * shape_.n_heads + h;
        const auto kv_row = [&](int j) {
          return static_cast<int64_t>(j) * shape_.n_kv_heads + h / per_kv;
        };
        const std::vector<float> query =
            as_packed(kind, q_.data() + row * shape_.head_dim, shape_.head_dim);
        std::vector<double> weights;
        double most = -std::numeric_limits<double>::infinity();
        for (int j = 0; j <= t; ++j) {
          const float* key = keys.data() + kv_row(j) * shape_.head_dim;
          weights.push_back(reference_dot(query.data(), key, shape_.head_dim).sum *
                            static_cast<double>(scale()));
          most = std::max(most, weights.back());
        }
        double sum = 0;
        for (double& w : weights) sum += w = std::exp(w - most);
        for (int c = 0; c < shape_.v_head_dim; ++c) {
          double expected = 0;
          double magnitude = 0;
          for (int j = 0; j <= t; ++j) {
            const double value = values[static_cast<size_t>(kv_row(j) * shape_.v_head_dim + c)];
            expected += weights[static_cast<size_t>(j)] / sum * value;
            magnitude = std::max(magnitude, std::abs(value));
          }
          const float got = out_[static_cast<size_t>(row * shape_.v_head_dim + c)];
          const double error = std::abs(got - expected) / magnitude;
          worst = error <= worst ? worst : error;  // NaN is worse than anything
        }
      }
    }
    return worst;
  }

 private:
  float scale() const { return 1.5F / std::sqrt(static_cast<float>(shape_.head_dim)); }

  // Heads of `dim`, as the cache holds them.
  static std::vector<float> rows(KvType type, const std::vector<float>& x, int dim) {
    std::vector<float> out;
    for (size_t i = 0; i < x.size(); i += static_cast<size_t>(dim)) {
      const std::vector<float> row = as_stored(type, x.data() + i, dim);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }

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
                             Shape{KvType::kF32, KvType::kF32, 2, 2, 8, 8},
                             Shape{KvType::kQ8_0, KvType::kQ8_0, 2, 1, 32, 32}}) {
    const Sequence sequence(shape, 1094, {500, 1, 25, 498, 33, 5, 32}, all_ways().front());
    CHECK(sequence.error() <= 2e-5);
  }
}

TEST_CASE("values in q8_0 of any size keep f32's precision on a GPU") {
  for (const float size : {1e-4F, 1e-2F, 1e3F, 1e6F}) {
    const Sequence sequence({KvType::kQ8_0, KvType::kQ8_0, 4, 2, 32, 32}, 70, {66, 4},
                            all_ways().front(), size);
    INFO("values of " << size);
    CHECK(sequence.error() <= 2e-5);
  }
}

namespace {

// Heads of queries, keys and values before attention, on the CPU and on a GPU.
struct Heads {
  static constexpr int kN = 3;
  static constexpr int kHeads = 4;
  static constexpr int kKvHeads = 2;
  static constexpr int kRot = 16;
  static constexpr int kFirst = 62;  // into the next tile

  explicit Heads(int head_dim = 24) : dim(head_dim) {
    std::mt19937 rng(2);
    q = random_floats(rng, kN * kHeads * dim, 2.0F);
    k = random_floats(rng, kN * kKvHeads * dim, 2.0F);
    v = random_floats(rng, kN * kKvHeads * dim, 2.0F);
    q_gain = random_floats(rng, kHeads * dim);
    k_gain = random_floats(rng, kKvHeads * dim);
    table.resize(kN * kRot);
  }
  void turn(RopeStyle style) {
    RopeParams params;
    params.style = style;
    params.n_rot = kRot;
    rope_table(params, kFirst, kN, table.data());
    halves = style == RopeStyle::kHalves;
  }

  // What the kernel makes of them: queries, and the cache.
  struct Result {
    std::vector<float> q;
    DeviceBytes cache_k;
    DeviceBytes cache_v;
  };
  KvShape shape(KvType type) const { return {type, type, kKvHeads, dim, dim}; }
  Result run(const Way& way, KvType type, int q_width, int k_width, float limit) const {
    Result result{std::vector<float>(q.size()), DeviceBytes(shape(type).k_bytes(kFirst + kN)),
                  DeviceBytes(shape(type).v_bytes(kFirst + kN))};
    gpu::PreparedHeads call{};
    call.q = q.data();
    call.k = k.data();
    call.v = v.data();
    call.q_gain = q_width > 0 ? q_gain.data() : nullptr;
    call.k_gain = k_width > 0 ? k_gain.data() : nullptr;
    call.q_norm_width = q_width;
    call.k_norm_width = k_width;
    call.eps = 1e-6F;
    call.limit = limit;
    call.rope = table.data();
    call.n_rot = kRot;
    call.halves = halves;
    call.n_heads = kHeads;
    call.first_pos = kFirst;
    call.q_out = result.q.data();
    vgpu::Emulation emulation(way.options);
    gpu::kEmulatedOps.prepare_heads(
        &emulation, call,
        {type, type, kKvHeads, dim, dim, result.cache_k.data(), result.cache_v.data()}, kN);
    CHECK(emulation.stats().launches == 1);
    return result;
  }
  // The same by the CPU's kernels.
  Result expected(KvType type, RopeStyle style, int q_width, int k_width, float limit) const {
    Result result{q, DeviceBytes(shape(type).k_bytes(kFirst + kN)),
                  DeviceBytes(shape(type).v_bytes(kFirst + kN))};
    std::vector<float> keys = k;
    std::vector<float> values = v;
    const auto prepare = [&](std::vector<float>* x, const float* gain, int width, int heads) {
      if (width > 0) {
        rms_norm(x->data(), width, gain, 1e-6F, kN * heads * dim / width, width, x->data(), width);
      }
      for (float& f : *x) f = limit > 0 ? std::clamp(f, -limit, limit) : f;
      rope_apply(style, table.data(), kRot, kN, heads, dim, x->data(), heads * dim);
    };
    prepare(&result.q, q_gain.data(), q_width, kHeads);
    prepare(&keys, k_gain.data(), k_width, kKvHeads);
    for (float& f : values) f = limit > 0 ? std::clamp(f, -limit, limit) : f;
    const KvView view{shape(type), reinterpret_cast<std::byte*>(result.cache_k.data()),
                      reinterpret_cast<std::byte*>(result.cache_v.data())};
    for (int h = 0; h < kKvHeads; ++h) kv_append(view, h, keys.data(), values.data(), kFirst, kN);
    return result;
  }

  int dim;
  std::vector<float> q, k, v, q_gain, k_gain, table;
  bool halves = true;
};

bool same_bytes(const DeviceBytes& a, const DeviceBytes& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size())) == 0;
}

}  // namespace

TEST_CASE("heads are limited, turned and stored on a GPU as the CPU does it, bit for bit") {
  for (const Way& way : all_ways()) {
    for (const RopeStyle style : {RopeStyle::kHalves, RopeStyle::kInterleaved}) {
      for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0}) {
        Heads heads(type == KvType::kQ8_0 ? 160 : 24);
        for (const float limit : {0.0F, 0.7F}) {
          heads.turn(style);
          const Heads::Result got = heads.run(way, type, 0, 0, limit);
          const Heads::Result expected = heads.expected(type, style, 0, 0, limit);
          INFO(way.name << ", limit " << limit);
          CHECK(same_bits(got.q, expected.q));
          CHECK(same_bytes(got.cache_k, expected.cache_k));
          CHECK(same_bytes(got.cache_v, expected.cache_v));
        }
      }
    }
  }
}

TEST_CASE("keys and values of any size become q8_0 on a GPU as on the CPU, bit for bit") {
  Heads heads(64);
  heads.turn(RopeStyle::kHalves);
  // What neither turns nor is limited: from kRot on. A size a block of 32.
  constexpr float kSizes[] = {1.0F, 0.0F, 1e-6F, 1e-12F, 1e-37F, 1e-42F, 1e5F, 1e9F, 1e38F};
  for (size_t i = 0; i < heads.k.size(); ++i) {
    heads.k[i] *= kSizes[i / 32 % std::size(kSizes)];
    heads.v[i] *= kSizes[i / 32 % std::size(kSizes)];
  }
  heads.k[40] = NAN;
  heads.k[100] = INFINITY;
  heads.v[5] = -INFINITY;
  heads.v[70] = NAN;
  for (const Way& way : all_ways()) {
    const Heads::Result got = heads.run(way, KvType::kQ8_0, 0, 0, 0);
    const Heads::Result expected = heads.expected(KvType::kQ8_0, RopeStyle::kHalves, 0, 0, 0);
    INFO(way.name);
    CHECK(same_bytes(got.cache_k, expected.cache_k));
    CHECK(same_bytes(got.cache_v, expected.cache_v));
  }
}

TEST_CASE("heads are normalised on a GPU each for itself, or all together") {
  Heads heads;
  heads.turn(RopeStyle::kHalves);
  for (const Way& way : all_ways()) {
    for (const bool whole : {false, true}) {
      const int q_width = whole ? Heads::kHeads * heads.dim : heads.dim;
      const int k_width = whole ? Heads::kKvHeads * heads.dim : heads.dim;
      const Heads::Result got = heads.run(way, KvType::kF32, q_width, k_width, 1.5F);
      const Heads::Result expected =
          heads.expected(KvType::kF32, RopeStyle::kHalves, q_width, k_width, 1.5F);
      INFO(way.name << ", whole " << whole);
      for (size_t i = 0; i < got.q.size(); ++i) {
        REQUIRE(std::abs(got.q[i] - expected.q[i]) <= 2e-6F);
      }
      const auto floats = [](const DeviceBytes& bytes) {
        return reinterpret_cast<const float*>(bytes.data());
      };
      for (int64_t i = 0; i < got.cache_k.size() / 4; ++i) {
        REQUIRE(std::abs(floats(got.cache_k)[i] - floats(expected.cache_k)[i]) <= 2e-6F);
      }
    }
  }
}

TEST_CASE("a limit leaves NaN as it is") {
  Heads heads;
  heads.turn(RopeStyle::kHalves);
  heads.q[Heads::kRot] = NAN;  // behind what turns
  heads.q[Heads::kRot + 1] = INFINITY;
  const Heads::Result got = heads.run(all_ways().front(), KvType::kF32, 0, 0, 1.0F);
  CHECK(std::isnan(got.q[Heads::kRot]));
  CHECK(got.q[Heads::kRot + 1] == 1.0F);
}

}  // namespace tandem::testing
