// attention.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/kv_cache.h"
#include "runtime/probe/packed_activations.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

struct Shape {
  KvType type_k;
  KvType type_v;
  int n_heads;
  int n_kv_heads;
  int head_dim;
  int v_head_dim;

  KvShape kv() const { return {type_k, type_v, n_kv_heads, head_dim, v_head_dim}; }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(head_dim)); }
  int per_kv() const { return n_heads / n_kv_heads; }
};

std::string types_text(const Shape& s) {
  return s.type_k == s.type_v
             ? kv_type_name(s.type_k)
             : fmt::format("{}, {}", kv_type_name(s.type_k), kv_type_name(s.type_v));
}

// Random keys, values and queries of a sequence, and its cache in device memory, full of NaN.
struct Sequence {
  Shape shape;
  int n;  // tokens in all
  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;
  DeviceArray<float> k_at;
  DeviceArray<float> v_at;
  DeviceArray<uint8_t> cache_k;
  DeviceArray<uint8_t> cache_v;

  Sequence(DeviceMemory& memory, const Shape& s, int n_tokens, int n_queries)
      : shape(s), n(n_tokens) {
    Random random(static_cast<uint32_t>(n + s.head_dim));
    constexpr float kMost = 1.7F;  // a variance of 1
    q = random.floats(int64_t{n_queries} * s.n_heads * s.head_dim, kMost);
    k = random.floats(int64_t{n} * s.n_kv_heads * s.head_dim, kMost);
    v = random.floats(int64_t{n} * s.n_kv_heads * s.v_head_dim, kMost);
    k_at = memory.put(k);
    v_at = memory.put(v);
    // 4-byte aligned is what a cache must be.
    cache_k = memory.room<uint8_t>(s.kv().k_bytes(n), 4);
    cache_v = memory.room<uint8_t>(s.kv().v_bytes(n), 4);
  }

  gpu::KvCache cache(const KernelScope& scope) const {
    return {shape.type_k,     shape.type_v,      shape.n_kv_heads, shape.head_dim,
            shape.v_head_dim, cache_k.in(scope), cache_v.in(scope)};
  }

  // Keys and values alone: no heads of queries, neither norm nor rotation.
  void append(const OpContext& c, const KernelScope& scope, int first, int count) const {
    gpu::PreparedHeads call{};
    call.k = k_at.in(scope) + int64_t{first} * shape.n_kv_heads * shape.head_dim;
    call.v = v_at.in(scope) + int64_t{first} * shape.n_kv_heads * shape.v_head_dim;
    call.first_pos = first;
    if (count > 0) c.ops.prepare_heads(scope.stream(), call, cache(scope), count);
  }

  // As keys take it: [head_dim] of a query, row `index` of q.
  std::vector<float> query(int64_t index) const {
    const int64_t first = index * shape.head_dim;
    const std::vector<float> row(q.begin() + first, q.begin() + first + shape.head_dim);
    return shape.type_k == KvType::kQ8_0 ? pack_activations(XKind::kQ8, row, shape.head_dim).values
                                         : row;
  }

  // As stored: [head_dim] of a position's key, likewise its value.
  std::vector<float> key(int position, int kv_head) const {
    return stored(k, shape.type_k, position, kv_head, shape.head_dim);
  }
  std::vector<float> value(int position, int kv_head) const {
    return stored(v, shape.type_v, position, kv_head, shape.v_head_dim);
  }

 private:
  std::vector<float> stored(const std::vector<float>& from, KvType type, int position, int kv_head,
                            int dim) const {
    const int64_t first = (int64_t{position} * shape.n_kv_heads + kv_head) * dim;
    std::vector<float> out(from.begin() + first, from.begin() + first + dim);
    if (type == KvType::kF16) {
      for (float& x : out) x = f16_to_f32(f32_to_f16(x));
    }
    if (type == KvType::kQ8_0) return as_q8_0(out);
    return out;
  }
};

// One query's attention in float64, with what f32 may add to it: a score is off by the roundings of
// its sum, which moves the weights of all keys; then the weighted sum has roundings of its own.
class Reference {
 public:
  Reference(const Sequence& s, const std::vector<float>& query, int head, int n_positions)
      : dim_(s.shape.v_head_dim) {
    const int kv_head = head / s.shape.per_kv();
    double most = -std::numeric_limits<double>::infinity();
    for (int j = 0; j < n_positions; ++j) {
      const Dot d = dot(query.data(), s.key(j, kv_head).data(), s.shape.head_dim);
      weights_.push_back(d.sum * s.shape.scale());
      errors_.push_back(sum_tolerance(s.shape.head_dim, d.magnitude * s.shape.scale()));
      values_.push_back(s.value(j, kv_head));
      most = std::max(most, weights_.back());
    }
    double sum = 0;
    for (double& w : weights_) sum += w = std::exp(w - most);
    for (double& w : weights_) w /= sum;
  }

  void compare(int64_t row, const float* got, Comparison* comparison) const {
    for (int i = 0; i < dim_; ++i) {
      double expected = 0;
      double magnitude = 0;
      for (size_t j = 0; j < weights_.size(); ++j) {
        expected += weights_[j] * values_[j][at(i)];
        magnitude += weights_[j] * std::abs(values_[j][at(i)]);
      }
      double moved = 0;
      for (size_t j = 0; j < weights_.size(); ++j) {
        moved += weights_[j] * errors_[j] * std::abs(values_[j][at(i)] - expected);
      }
      comparison->add(row, i, got[i], expected,
                      moved + sum_tolerance(static_cast<int64_t>(weights_.size()), magnitude));
    }
  }

 private:
  int dim_;
  std::vector<double> weights_;
  std::vector<double> errors_;  // of scores
  std::vector<std::vector<float>> values_;
};

void check_attention_of(const OpContext& c, const Shape& shape, int first_pos, int n) {
  const std::string text =
      fmt::format("{} behind {}, {} heads, {} of {} and {}", tokens_text(n), first_pos,
                  shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.v_head_dim);
  c.check("attention", types_text(shape), text, [&](DeviceMemory& memory, Comparison& comparison) {
    const Sequence s(memory, shape, first_pos + n, n);
    const int64_t row = int64_t{shape.n_heads} * shape.v_head_dim;
    const auto q = memory.put(s.q);
    const auto scratch = memory.room<float>(
        gpu::attention_scratch_floats(first_pos, n, shape.n_heads, shape.v_head_dim));
    const auto out_at = memory.room<float>(n * row);
    memory.run("attention", [&](const KernelScope& scope) {
      s.append(c, scope, 0, first_pos);
      s.append(c, scope, first_pos, n);
      c.ops.attention(scope.stream(), s.cache(scope), q.in(scope), first_pos, n, shape.n_heads,
                      shape.scale(), scratch.in(scope), out_at.in(scope));
    });
    const std::vector<float> out = memory.get(out_at);
    for (int t = 0; t < n; ++t) {
      for (int h = 0; h < shape.n_heads; ++h) {
        const int64_t index = int64_t{t} * shape.n_heads + h;
        const Reference reference(s, s.query(index), h, first_pos + t + 1);
        reference.compare(index, out.data() + index * shape.v_head_dim, &comparison);
      }
    }
  });
}

constexpr KvType kF16 = KvType::kF16;
constexpr KvType kF32 = KvType::kF32;
constexpr KvType kQ8 = KvType::kQ8_0;

}  // namespace

void check_attention(const OpContext& c) {
  const Shape grouped{kF16, kF16, 8, 2, 64, 64};
  for (const Shape& shape : {grouped, Shape{kF32, kF32, 4, 4, 128, 128},
                             Shape{kF16, kF16, 10, 2, 80, 80}, Shape{kF16, kF32, 6, 2, 24, 40},
                             Shape{kF32, kF16, 20, 1, 13, 7}, Shape{kQ8, kQ8, 8, 2, 64, 64},
                             Shape{kQ8, kF16, 3, 1, 96, 40}, Shape{kF32, kQ8, 10, 2, 80, 160},
                             Shape{kF16, kQ8, 6, 2, 40, 96}, Shape{kQ8, kF32, 5, 5, 32, 24}}) {
    check_attention_of(c, shape, 0, 1);
    check_attention_of(c, shape, 70, 9);
  }
  // More than 512 positions: two and three spans, which are joined.
  check_attention_of(c, grouped, 0, 17);
  check_attention_of(c, grouped, 520, 1);
  check_attention_of(c, {kF32, kF32, 4, 2, 64, 64}, 505, 17);
  check_attention_of(c, {kF16, kF16, 2, 1, 128, 128}, 1100, 1);
  check_attention_of(c, {kQ8, kQ8, 4, 2, 64, 96}, 505, 17);
  if (c.large) {
    check_attention_of(c, {kF16, kF16, 32, 4, 128, 128}, 4000, 3);
    check_attention_of(c, {kF16, kF16, 32, 4, 128, 128}, 0, 130);
    check_attention_of(c, {kQ8, kQ8, 32, 4, 128, 128}, 4000, 3);
  }
}

}  // namespace tandem
