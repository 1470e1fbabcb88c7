#include "runtime/engine/host_kernel_ops.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/check.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"
#include "runtime/engine/host_vector.h"

namespace tandem {
namespace {

constexpr const char* kTag = "activations";

const float* values(const KernelScope& scope, const DeviceVector& v) {
  return v ? scope.read_as<float>(v.at, v.n) : nullptr;
}

void clamp_all(float* x, int64_t n, float limit) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::clamp(x[i], -limit, limit);
}

int64_t matmul_flops(const WeightView& w, int64_t n) { return 2 * w.rows * w.cols * n; }

}  // namespace

HostKernelOps::HostKernelOps(const ModelConfig& config, Device& device, ThreadPool& pool,
                             const EngineShape& shape)
    : config_(config),
      device_(device),
      pool_(pool),
      kv_shape_(kv_shape(config, shape)),
      kv_bytes_k_(kv_shape_.k_bytes(shape.n_ctx)),
      kv_bytes_v_(kv_shape_.v_bytes(shape.n_ctx)),
      hidden_bytes_(shape.n_batch * config.routing.top_k * config.expert_ff * kFloat) {
  const int64_t n = shape.n_batch;
  rope_ = device.alloc(n * config.rope.n_rot * kFloat, kTag);
  if (config.shared_ff > 0) {
    shared_hidden_ = device.alloc(n * config.shared_ff * kFloat, kTag);
    shared_scale_ = device.alloc(n * kFloat, kTag);
    resize_host(&shared_rows_, n, device, kTag);
  }
  if (!device.info().host_memory) hidden_ = device.alloc(hidden_bytes_, kTag);
  const auto n_experts = static_cast<size_t>(config.routing.n_experts);
  calls_.reserve(n_experts);
  touches_.reserve(3 + 3 * n_experts);
}

Touch HostKernelOps::all(DeviceAddr at, int64_t floats_per_token, bool write) const {
  return {at, n_ * floats_per_token * kFloat, write};
}

void HostKernelOps::begin_step(int64_t first_pos, int64_t n) {
  first_pos_ = first_pos;
  n_ = n;
  const std::array touches{all(rope_, config_.rope.n_rot, true)};
  device_.launch(
      Stream::kCompute,
      {"rope_table", touches, n * config_.rope.n_rot * kFloat, 0, [&](const KernelScope& scope) {
         rope_table(config_.rope, first_pos, n,
                    scope.write_as<float>(rope_, n * config_.rope.n_rot));
       }});
}

void HostKernelOps::normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) {
  const int64_t d = gain.n;
  const std::array touches{Touch{from, n * d * kFloat, false}, Touch{to, n * d * kFloat, true},
                           read_of(gain)};
  device_.launch(
      Stream::kCompute,
      {"rms_norm", touches, 2 * n * d * kFloat, 4 * n * d, [&](const KernelScope& scope) {
         rms_norm(scope.read_as<float>(from, n * d), d, values(scope, gain), config_.rms_eps, n, d,
                  scope.write_as<float>(to, n * d), d);
       }});
}

void HostKernelOps::products(const char* name, std::span<const DeviceProduct> products,
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

void HostKernelOps::normalize_products(const DeviceVector& gain, DeviceAddr from, int64_t n,
                                       DeviceAddr to, const char* name,
                                       std::span<const DeviceProduct> some) {
  normalize(gain, from, n, to);
  products(name, some, to, n);
}

void HostKernelOps::add(const char* name, DeviceAddr x, DeviceAddr y) {
  const int64_t n = n_ * config_.d_model;
  const std::array touches{all(y, config_.d_model, true), all(x, config_.d_model, false)};
  device_.launch(Stream::kCompute,
                 {name, touches, 3 * n * kFloat, n, [&](const KernelScope& scope) {
                    tandem::add(scope.read_as<float>(x, n), n, scope.write_as<float>(y, n));
                  }});
}

void HostKernelOps::attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q,
                           DeviceAddr k, DeviceAddr v, DeviceAddr out) {
  // Queries and keys are limited behind their norm.
  if (config_.clamp_qkv > 0) limit_values(v);
  qk_norm_rope(layer, q, k);
  const ModelConfig& c = config_;
  const int64_t out_width = c.n_heads * c.v_head_dim;
  const std::array touches{all(q, c.q_width(), false),        all(k, c.k_width(), false),
                           all(v, c.v_width(), false),        Touch{cache.k, kv_bytes_k_, true},
                           Touch{cache.v, kv_bytes_v_, true}, all(out, out_width, true)};
  const int64_t n_positions = first_pos_ + n_;
  const int64_t kv_read = kv_shape_.k_bytes(n_positions) + kv_shape_.v_bytes(n_positions);
  const int64_t flops = 2 * n_ * n_positions * c.n_heads * (c.head_dim + c.v_head_dim);
  device_.launch(
      Stream::kCompute,
      {"attention", touches, kv_read, flops, [&](const KernelScope& scope) {
         const KvView kv{kv_shape_, scope.write(cache.k, kv_bytes_k_),
                         scope.write(cache.v, kv_bytes_v_)};
         const NewTokens tokens{scope.read_as<float>(q, n_ * c.q_width()),
                                scope.read_as<float>(k, n_ * c.k_width()),
                                scope.read_as<float>(v, n_ * c.v_width()), first_pos_, n_};
         attention(kv, tokens, c.n_heads, 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
                   scope.write_as<float>(out, n_ * out_width), pool_.workspace(), pool_);
       }});
}

void HostKernelOps::limit_values(DeviceAddr v) {
  const int64_t n = n_ * config_.v_width();
  const std::array touches{all(v, config_.v_width(), true)};
  device_.launch(Stream::kCompute,
                 {"clamp_v", touches, 2 * n * kFloat, n, [&](const KernelScope& scope) {
                    clamp_all(scope.write_as<float>(v, n), n, config_.clamp_qkv);
                  }});
}

void HostKernelOps::qk_norm_rope(const DeviceLayer& layer, DeviceAddr q, DeviceAddr k) {
  const ModelConfig& c = config_;
  const std::array touches{all(q, c.q_width(), true), all(k, c.k_width(), true),
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
                    turn(scope, q, layer.q_norm, c.n_heads);
                    turn(scope, k, layer.k_norm, c.n_kv_heads);
                  }});
}

void HostKernelOps::shared_expert(const SharedExpert& shared, DeviceAddr x, DeviceAddr y) {
  if (shared.gate_in) {
    const DeviceProduct gate{shared.gate_in, {}, shared_scale_};
    products("shared_gate", {&gate, 1}, x, n_);
  }
  const int64_t d = config_.d_model;
  const std::array touches{read_of(shared.ffn.gate),
                           read_of(shared.ffn.up),
                           read_of(shared.ffn.down),
                           all(x, d, false),
                           all(y, d, true),
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
         expert_ffn({&call, 1}, scope.read_as<float>(x, n_ * d), n_, d,
                    scope.write_as<float>(y, n_ * d),
                    scope.write_as<float>(shared_hidden_, n_ * config_.shared_ff),
                    pool_.workspace(), pool_);
       }});
}

void HostKernelOps::begin_experts(std::span<const DeviceExpert> experts,
                                  std::span<const int32_t> /*by_id*/) {
  experts_ = experts;
}

Timepoint HostKernelOps::experts(int64_t first, int64_t count, DeviceAddr x, DeviceAddr y) {
  const auto some = experts_.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  const int64_t d = config_.d_model;
  touches_.assign({all(x, d, false), all(y, d, true), Touch{hidden_, hidden_bytes_, true}});
  int64_t bytes = 0;
  int64_t flops = 0;
  for (const DeviceExpert& expert : some) {
    const ExpertWeights& w = expert.weights;
    for (const WeightView& part : {w.gate, w.up, w.down}) touches_.push_back(read_of(part));
    bytes += w.bytes();
    flops += matmul_flops(w.gate, 3 * static_cast<int64_t>(expert.rows.size()));
  }
  return device_.launch(
      Stream::kCompute,
      {"experts", touches_, bytes, flops, [&](const KernelScope& scope) {
         calls_.clear();
         for (const DeviceExpert& expert : some) {
           const ExpertWeights& w = expert.weights;
           calls_.push_back(
               {{scope.read(w.gate), scope.read(w.up), scope.read(w.down)}, expert.rows});
         }
         expert_ffn(
             calls_, scope.read_as<float>(x, n_ * d), n_, d, scope.write_as<float>(y, n_ * d),
             scope.write_as<float>(hidden_, hidden_bytes_ / kFloat), pool_.workspace(), pool_);
       }});
}

}  // namespace tandem
