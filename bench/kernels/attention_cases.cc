#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/attention.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

// Softmax and two sums of up to thousands of terms in f32.
constexpr double kTolerance = 2e-5;

class AttentionBench : public Bench {
 public:
  AttentionBench(std::mt19937& rng, KvType type, const Heads& heads, const Pools& pools,
                 const Wanted& wanted)
      : heads_(heads),
        kv_{type, type, heads.n_kv, heads.dim, heads.dim},
        k_(testing::random_floats(rng, heads.depth * heads.n_kv * heads.dim)),
        v_(testing::random_floats(rng, heads.depth * heads.n_kv * heads.dim)),
        q_(testing::random_floats(rng, wanted.most_tokens * heads.n * heads.dim)),
        pool_(*pools.back()) {
    const int64_t n_ctx = heads.depth + wanted.most_tokens;
    std::vector<std::byte> one(static_cast<size_t>(kv_.k_bytes(n_ctx) + kv_.v_bytes(n_ctx)));
    const KvView view = at(one.data(), n_ctx);
    for (int64_t h = 0; h < heads.n_kv; ++h) {
      kv_append(view, h, k_.data(), v_.data(), 0, heads.depth);
    }
    ring_ = Ring(one, wanted.ring_bytes);
    n_ctx_ = n_ctx;
  }

  std::vector<Case> cases(int64_t tokens) override {
    out_.assign(static_cast<size_t>(tokens * heads_.n * heads_.dim), 0.0F);
    Case c{kAttention, kv_type_name(kv_.type_k), heads_.n, heads_.depth, tokens, &pool_};
    c.weight_bytes = kv_.k_bytes(heads_.depth) + kv_.v_bytes(heads_.depth);
    c.ops = 4 * tokens * heads_.depth * heads_.n * heads_.dim;
    c.peak = Peak::kF32;
    c.call = [this, tokens] {
      // The ring's copies are written to, in the places of the new tokens.
      const KvView view = at(const_cast<std::byte*>(ring_.next()), n_ctx_);
      attention(view, {q_.data(), k_.data(), v_.data(), heads_.depth, tokens}, heads_.n, scale(),
                out_.data(), pool_.workspace(), pool_);
    };
    c.check = [this, tokens] { return check(tokens); };
    return {c};
  }

 private:
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(heads_.dim)); }

  KvView at(std::byte* memory, int64_t n_ctx) const {
    return {kv_, memory, memory + kv_.k_bytes(n_ctx)};
  }

  // Of a position, as stored; new tokens have the first ones' keys and values.
  std::vector<float> row(const std::vector<float>& values, int64_t position,
                         int64_t kv_head) const {
    const float* from =
        values.data() + (position % heads_.depth * heads_.n_kv + kv_head) * heads_.dim;
    std::vector<float> out(from, from + heads_.dim);
    if (kv_.type_k == KvType::kF16) {
      for (float& v : out) v = f16_to_f32(f32_to_f16(v));
    } else if (kv_.type_k == KvType::kQ8_0) {
      for (int64_t i = 0; i < heads_.dim; i += kv_type_block(KvType::kQ8_0)) {
        std::byte block[34];
        quantize_q8_0(from + i, block);
        dequantize(DType::kQ8_0, block, out.data() + i, kv_type_block(KvType::kQ8_0));
      }
    }
    return out;
  }

  // The last token's last head against float64.
  std::string check(int64_t tokens) const {
    const int64_t head = heads_.n - 1;
    const int64_t kv_head = heads_.n_kv - 1;
    const int64_t n = heads_.depth + tokens;
    const float* query = q_.data() + ((tokens - 1) * heads_.n + head) * heads_.dim;
    const std::vector<float> seen = testing::as_packed(
        kv_.type_k == KvType::kQ8_0 ? x_kind(DType::kQ8_0) : XKind::kFloat, query, heads_.dim);
    std::vector<double> weights;
    std::vector<std::vector<float>> values;
    for (int64_t p = 0; p < n; ++p) {
      const double score =
          testing::reference_dot(seen.data(), row(k_, p, kv_head).data(), heads_.dim).sum;
      weights.push_back(score * static_cast<double>(scale()));
      values.push_back(row(v_, p, kv_head));
    }
    const double most = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - most);
    for (int64_t c = 0; c < heads_.dim; ++c) {
      double expected = 0;
      for (int64_t p = 0; p < n; ++p) {
        expected += weights[static_cast<size_t>(p)] / sum *
                    static_cast<double>(values[static_cast<size_t>(p)][static_cast<size_t>(c)]);
      }
      const float got =
          out_[static_cast<size_t>(((tokens - 1) * heads_.n + head) * heads_.dim + c)];
      if (!(std::abs(got - expected) <= kTolerance)) {
        return "value " + std::to_string(c) + ": expected " + std::to_string(expected) + ", got " +
               std::to_string(got);
      }
    }
    return "";
  }

  Heads heads_;
  KvShape kv_;
  std::vector<float> k_;  // [depth, n_kv, dim]
  std::vector<float> v_;
  std::vector<float> q_;  // [most tokens, n, dim]
  std::vector<float> out_;
  Ring ring_;
  int64_t n_ctx_ = 0;
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<Bench> attention_bench(std::mt19937& rng, KvType type, const Heads& heads,
                                       const Pools& pools, const Wanted& wanted) {
  return std::make_unique<AttentionBench>(rng, type, heads, pools, wanted);
}

}  // namespace tandem::bench
