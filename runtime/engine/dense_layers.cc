#include "runtime/engine/dense_layers.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/check.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"
#include "runtime/engine/host_vector.h"

namespace tandem {
namespace {

const float* values(const KernelScope& scope, const DeviceVector& v) {
  return v ? scope.read_as<float>(v.at, v.n) : nullptr;
}

void clamp_all(float* x, int64_t n, float limit) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::clamp(x[i], -limit, limit);
}

KvShape kv_shape(const ModelConfig& config, const EngineShape& shape) {
  return {shape.kv_type_k, shape.kv_type_v, config.n_kv_heads, config.head_dim, config.v_head_dim};
}

int64_t matmul_flops(const WeightView& w, int64_t n) { return 2 * w.rows * w.cols * n; }

}  // namespace

int64_t kv_cache_bytes(const ModelConfig& config, const EngineShape& shape) {
  const KvShape kv = kv_shape(config, shape);
  return config.n_layers * (kv.k_bytes(shape.n_ctx) + kv.v_bytes(shape.n_ctx));
}

DenseLayers::DenseLayers(const Model& model, Device& device, ThreadPool& pool,
                         const EngineShape& shape)
    : model_(model),
      config_(model.config()),
      device_(device),
      pool_(pool),
      shape_(shape),
      weights_(model, device),
      gate_reuse_(config_, weights_, device, pool, shape.lookahead, shape.n_batch) {
  const ModelConfig& c = config_;
  kv_bytes_k_ = kv_shape(c, shape).k_bytes(shape.n_ctx);
  kv_bytes_v_ = kv_shape(c, shape).v_bytes(shape.n_ctx);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    const DeviceAddr k = device.alloc(kv_bytes_k_, "KV cache");
    kv_.push_back({k, device.alloc(kv_bytes_v_, "KV cache")});
  }
  const int64_t n = shape.n_batch;
  const char* tag = "activations";
  residual_ = floats(n * c.d_model, tag);
  normed_ = floats(n * c.d_model, tag);
  moe_ = floats(n * c.d_model, tag);
  projected_ = floats(n * c.d_model, tag);
  q_ = floats(n * c.q_width(), tag);
  k_ = floats(n * c.k_width(), tag);
  v_ = floats(n * c.v_width(), tag);
  attended_ = floats(n * c.n_heads * c.v_head_dim, tag);
  const int64_t gates = n * c.routing.n_experts * (1 + shape.lookahead.count);
  gate_logits_ = floats(gates, tag);
  rope_ = floats(n * c.rope.n_rot, tag);
  if (c.shared_ff > 0) {
    shared_hidden_ = floats(n * c.shared_ff, tag);
    shared_scale_ = floats(n, tag);
    resize_host(&shared_rows_, n, tag);
  }
  logits_ = floats(shape.max_logits * c.n_vocab, "logits");
  resize_host(&embedded_, n * c.d_model, tag);
  resize_host(&normed_host_, n * c.d_model, tag);
  resize_host(&gate_logits_host_, gates, tag);
  resize_host(&logits_host_, shape.max_logits * c.n_vocab, "logits");
}

DeviceAddr DenseLayers::floats(int64_t n, const char* tag) {
  return device_.alloc(n * kFloat, tag);
}

Touch DenseLayers::all(DeviceAddr at, int64_t floats_per_token, bool write) const {
  return {at, n_ * floats_per_token * kFloat, write};
}

void DenseLayers::embed(const Batch& batch) {
  n_ = static_cast<int64_t>(batch.tokens.size());
  first_pos_ = batch.first_pos;
  TANDEM_CHECK(n_ >= 1 && n_ <= shape_.n_batch && first_pos_ + n_ <= shape_.n_ctx,
               "%lld tokens at %lld", static_cast<long long>(n_),
               static_cast<long long>(first_pos_));
  tandem::embed(model_.weights().embedding, batch.tokens, embedded_.data());
  // On the compute stream: the kernels of the last step may still read the residual, and the copy
  // engine may be busy with experts that nobody waits for.
  device_.copy_to_device(Stream::kCompute, residual_, embedded_.data(),
                         n_ * config_.d_model * kFloat);
  const std::array touches{all(rope_, config_.rope.n_rot, true)};
  device_.launch(
      Stream::kCompute,
      {"rope_table", touches, n_ * config_.rope.n_rot * kFloat, 0, [&](const KernelScope& scope) {
         rope_table(config_.rope, first_pos_, n_,
                    scope.write_as<float>(rope_, n_ * config_.rope.n_rot));
       }});
}

void DenseLayers::normalize(const DeviceVector& gain, DeviceAddr from, DeviceAddr to, int64_t n) {
  const int64_t d = config_.d_model;
  const std::array touches{Touch{from, n * d * kFloat, false}, Touch{to, n * d * kFloat, true},
                           read_of(gain)};
  device_.launch(
      Stream::kCompute,
      {"rms_norm", touches, 2 * n * d * kFloat, 4 * n * d, [&](const KernelScope& scope) {
         rms_norm(scope.read_as<float>(from, n * d), d, values(scope, gain), config_.rms_eps, n, d,
                  scope.write_as<float>(to, n * d), d);
       }});
}

void DenseLayers::matmul_kernel(const char* name, std::span<const DeviceProduct> products,
                                DeviceAddr x, int64_t n) {
  constexpr size_t kMost = 3;
  TANDEM_CHECK(products.size() <= kMost, "%zu products", products.size());
  const int64_t cols = products.front().w.cols;
  std::array<Touch, 3 * kMost + 1> touches{Touch{x, n * cols * kFloat, false}};
  size_t n_touches = 1;
  int64_t bytes = n * cols * kFloat;
  int64_t flops = 0;
  for (const DeviceProduct& p : products) {
    touches[n_touches++] = read_of(p.w);
    touches[n_touches++] = read_of(p.bias);
    touches[n_touches++] = {p.y, n * p.w.rows * kFloat, true};
    bytes += p.w.bytes() + n * p.w.rows * kFloat;
    flops += matmul_flops(p.w, n);
  }
  device_.launch(
      Stream::kCompute,
      {name, std::span(touches).first(n_touches), bytes, flops, [&](const KernelScope& scope) {
         std::array<MatmulPart, kMost> parts;
         for (size_t i = 0; i < products.size(); ++i) {
           const DeviceProduct& p = products[i];
           parts[i] = {scope.read(p.w), values(scope, p.bias),
                       scope.write_as<float>(p.y, n * p.w.rows)};
         }
         matmul(std::span(parts).first(products.size()), scope.read_as<float>(x, n * cols), n,
                pool_.workspace(), pool_);
       }});
}

void DenseLayers::matmul_kernel(const char* name, const WeightView& w, const DeviceVector& bias,
                                DeviceAddr x, int64_t n, DeviceAddr y) {
  const DeviceProduct product{w, bias, y};
  matmul_kernel(name, {&product, 1}, x, n);
}

void DenseLayers::attention(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  normalize(layer.attn_norm, residual_, normed_, n_);
  project(layer);
  qk_norm_and_rope(layer);
  attend(kv_[static_cast<size_t>(index)]);
  attention_output(layer);
}

void DenseLayers::project(const DeviceLayer& layer) {
  const std::array products{DeviceProduct{layer.wq, layer.bq, q_},
                            DeviceProduct{layer.wk, layer.bk, k_},
                            DeviceProduct{layer.wv, layer.bv, v_}};
  matmul_kernel("attn_qkv", products, normed_, n_);
  if (config_.clamp_qkv <= 0) return;
  // Queries and keys are limited behind their norm.
  const int64_t n = n_ * config_.v_width();
  const std::array touches{all(v_, config_.v_width(), true)};
  device_.launch(Stream::kCompute,
                 {"clamp_v", touches, 2 * n * kFloat, n, [&](const KernelScope& scope) {
                    clamp_all(scope.write_as<float>(v_, n), n, config_.clamp_qkv);
                  }});
}

void DenseLayers::qk_norm_and_rope(const DeviceLayer& layer) {
  const ModelConfig& c = config_;
  const std::array touches{all(q_, c.q_width(), true), all(k_, c.k_width(), true),
                           all(rope_, c.rope.n_rot, false), read_of(layer.q_norm),
                           read_of(layer.k_norm)};
  const auto turn = [&](const KernelScope& scope, DeviceAddr at, const DeviceVector& gain,
                        int64_t n_heads) {
    float* x = scope.write_as<float>(at, n_ * n_heads * c.head_dim);
    if (gain) {
      // gain.n is a head for per-head norms and the whole row otherwise.
      rms_norm(x, gain.n, values(scope, gain), c.rms_eps, n_ * n_heads * c.head_dim / gain.n,
               gain.n, x, gain.n);
    }
    // OLMoE limits what its norm gives, before RoPE.
    if (c.clamp_qkv > 0) clamp_all(x, n_ * n_heads * c.head_dim, c.clamp_qkv);
    rope_apply(c.rope.style, scope.read_as<float>(rope_, n_ * c.rope.n_rot), c.rope.n_rot, n_,
               n_heads, c.head_dim, x, n_heads * c.head_dim);
  };
  device_.launch(Stream::kCompute,
                 {"qk_norm_rope", touches, 2 * n_ * (c.q_width() + c.k_width()) * kFloat, 0,
                  [&](const KernelScope& scope) {
                    turn(scope, q_, layer.q_norm, c.n_heads);
                    turn(scope, k_, layer.k_norm, c.n_kv_heads);
                  }});
}

void DenseLayers::attend(const KvLayer& cache) {
  const ModelConfig& c = config_;
  const int64_t out_width = c.n_heads * c.v_head_dim;
  const std::array touches{all(q_, c.q_width(), false),       all(k_, c.k_width(), false),
                           all(v_, c.v_width(), false),       Touch{cache.k, kv_bytes_k_, true},
                           Touch{cache.v, kv_bytes_v_, true}, all(attended_, out_width, true)};
  const KvShape shape = kv_shape(c, shape_);
  const int64_t kv_read = shape.k_bytes(first_pos_ + n_) + shape.v_bytes(first_pos_ + n_);
  const int64_t flops = 2 * n_ * (first_pos_ + n_) * c.n_heads * (c.head_dim + c.v_head_dim);
  device_.launch(Stream::kCompute,
                 {"attention", touches, kv_read, flops, [&](const KernelScope& scope) {
                    const KvView kv{shape, scope.write(cache.k, kv_bytes_k_),
                                    scope.write(cache.v, kv_bytes_v_)};
                    const NewTokens tokens{scope.read_as<float>(q_, n_ * c.q_width()),
                                           scope.read_as<float>(k_, n_ * c.k_width()),
                                           scope.read_as<float>(v_, n_ * c.v_width()), first_pos_,
                                           n_};
                    tandem::attention(
                        kv, tokens, c.n_heads, 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
                        scope.write_as<float>(attended_, n_ * out_width), pool_.workspace(), pool_);
                  }});
}

void DenseLayers::attention_output(const DeviceLayer& layer) {
  matmul_kernel("attn_output", layer.wo, layer.bo, attended_, n_, projected_);
  const int64_t n = n_ * config_.d_model;
  const std::array touches{all(residual_, config_.d_model, true),
                           all(projected_, config_.d_model, false)};
  device_.launch(Stream::kCompute,
                 {"residual", touches, 3 * n * kFloat, n, [&](const KernelScope& scope) {
                    add(scope.read_as<float>(projected_, n), n,
                        scope.write_as<float>(residual_, n));
                  }});
}

Timepoint DenseLayers::gate(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  normalize(layer.ffn_norm, residual_, normed_, n_);
  matmul_kernel("router", layer.router, {}, normed_, n_, gate_logits_);
  const int64_t gate_bytes = n_ * config_.routing.n_experts * kFloat;
  gate_reuse_.launch(index, residual_, n_, gate_logits_ + gate_bytes);
  device_.copy_to_host(Stream::kCompute, gate_logits_host_.data(), gate_logits_,
                       gate_bytes * (1 + gate_reuse_.reachable(index)));
  return device_.copy_to_host(Stream::kCompute, normed_host_.data(), normed_,
                              n_ * config_.d_model * kFloat);
}

void DenseLayers::shared_expert(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  if (!layer.shared) return;
  const SharedExpert& shared = *layer.shared;
  if (shared.gate_in) {
    matmul_kernel("shared_gate", shared.gate_in, {}, normed_, n_, shared_scale_);
  }
  const int64_t d = config_.d_model;
  const std::array touches{read_of(shared.ffn.gate),
                           read_of(shared.ffn.up),
                           read_of(shared.ffn.down),
                           all(normed_, d, false),
                           all(residual_, d, true),
                           all(shared_scale_, 1, false),
                           all(shared_hidden_, config_.shared_ff, true)};
  device_.launch(
      Stream::kCompute,
      {"shared_expert", touches, shared.ffn.bytes(), matmul_flops(shared.ffn.gate, 3 * n_),
       [&](const KernelScope& scope) {
         const float* scale = scope.read_as<float>(shared_scale_, n_);
         for (int64_t t = 0; t < n_; ++t) {
           const float weight = shared.gate_in ? 1.0F / (1.0F + std::exp(-scale[t])) : 1.0F;
           shared_rows_[static_cast<size_t>(t)] = {static_cast<int32_t>(t), weight};
         }
         const ExpertCall call{
             {scope.read(shared.ffn.gate), scope.read(shared.ffn.up), scope.read(shared.ffn.down)},
             std::span(shared_rows_).first(static_cast<size_t>(n_))};
         expert_ffn({&call, 1}, scope.read_as<float>(normed_, n_ * d), n_, d,
                    scope.write_as<float>(residual_, n_ * d),
                    scope.write_as<float>(shared_hidden_, n_ * config_.shared_ff),
                    pool_.workspace(), pool_);
       }});
}

void DenseLayers::add_from_host(const float* moe) {
  const int64_t n = n_ * config_.d_model;
  // On the compute stream: the copy engine may be busy with experts that nobody waits for.
  device_.copy_to_device(Stream::kCompute, moe_, moe, n * kFloat);
  const std::array touches{all(residual_, config_.d_model, true),
                           all(moe_, config_.d_model, false)};
  device_.launch(Stream::kCompute,
                 {"combine", touches, 3 * n * kFloat, n, [&](const KernelScope& scope) {
                    add(scope.read_as<float>(moe_, n), n, scope.write_as<float>(residual_, n));
                  }});
}

std::span<const float> DenseLayers::head(int64_t n) {
  TANDEM_CHECK(n >= 0 && n <= n_ && n <= shape_.max_logits, "%lld rows of logits",
               static_cast<long long>(n));
  if (n == 0) return {};
  const DeviceAddr last = residual_ + (n_ - n) * config_.d_model * kFloat;
  normalize(weights_.output_norm(), last, normed_, n);
  matmul_kernel("output", weights_.output(), {}, normed_, n, logits_);
  device_.host_wait(device_.copy_to_host(Stream::kCompute, logits_host_.data(), logits_,
                                         n * config_.n_vocab * kFloat));
  return {logits_host_.data(), static_cast<size_t>(n * config_.n_vocab)};
}

}  // namespace tandem
