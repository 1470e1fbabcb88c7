#include "runtime/engine/dense_layers.h"

#include <algorithm>
#include <array>

#include "kernels/check.h"
#include "kernels/dense.h"

namespace tandem {
int64_t kv_cache_bytes(const ModelConfig& config, const EngineShape& shape) {
  const KvShape kv = kv_shape(config, shape);
  return config.n_layers * (kv.k_bytes(shape.n_ctx) + kv.v_bytes(shape.n_ctx));
}

DenseLayers::DenseLayers(const Model& model, Device& device, DeviceOps& ops,
                         const EngineShape& shape)
    : model_(model),
      config_(model.config()),
      device_(device),
      ops_(ops),
      shape_(shape),
      weights_(model, device, shape.lookahead),
      n_ranks_(policy_ranks(model.config().routing)) {
  const ModelConfig& c = config_;
  const KvShape kv = kv_shape(c, shape);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    const DeviceAddr k = device.alloc(kv.k_bytes(shape.n_ctx), "KV cache");
    kv_.push_back({k, device.alloc(kv.v_bytes(shape.n_ctx), "KV cache")});
  }
  const int64_t n = shape.n_batch;
  const char* tag = "activations";
  residual_ = floats(n * c.d_model, tag);
  const int64_t gates = n * c.routing.n_experts * (1 + shape.lookahead.count);
  const int64_t ranks = rank_words(n, shape.lookahead.count);
  normed_ = floats(n * c.d_model + ranks + gates, tag);
  moe_ = floats(n * c.d_model, tag);
  projected_ = floats(n * c.d_model, tag);
  q_ = floats(n * c.q_width(), tag);
  k_ = floats(n * c.k_width(), tag);
  v_ = floats(n * c.v_width(), tag);
  attended_ = floats(n * c.n_heads * c.v_head_dim, tag);
  logits_ = floats(shape.max_logits * c.n_vocab, "logits");
  embedded_ = {device, n * c.d_model, tag};
  gate_host_ = {device, n * c.d_model + std::max(ranks, gates), tag};
  logits_host_ = {device, shape.max_logits * c.n_vocab, "logits"};
}

DeviceAddr DenseLayers::floats(int64_t n, const char* tag) {
  return device_.alloc(n * kFloat, tag);
}

int32_t DenseLayers::reachable(int64_t layer) const {
  const int64_t behind = config_.n_layers - layer - shape_.lookahead.first;
  return static_cast<int32_t>(std::clamp<int64_t>(behind, 0, shape_.lookahead.count));
}

void DenseLayers::embed(const Batch& batch) {
  n_ = static_cast<int64_t>(batch.tokens.size());
  TANDEM_CHECK(n_ >= 1 && n_ <= shape_.n_batch && batch.first_pos + n_ <= shape_.n_ctx,
               "%lld tokens at %lld", static_cast<long long>(n_),
               static_cast<long long>(batch.first_pos));
  device_.host_access("embedding", embedded_.data(), n_ * config_.d_model * kFloat, true);
  tandem::embed(model_.weights().embedding, batch.tokens, embedded_.data());
  // On the compute stream: the kernels of the last step may still read the residual, and the copy
  // engine may be busy with experts that nobody waits for.
  device_.copy_to_device(Stream::kCompute, residual_, embedded_.data(),
                         n_ * config_.d_model * kFloat);
  ops_.begin_step(batch.first_pos, n_);
}

void DenseLayers::product(const char* name, const WeightView& w, const DeviceVector& bias,
                          DeviceAddr x, DeviceAddr y) {
  const DeviceProduct product{w, bias, y};
  ops_.products(name, {&product, 1}, x, n_);
}

void DenseLayers::attention(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  ops_.normalize(layer.attn_norm, residual_, n_, normed_);
  const std::array products{DeviceProduct{layer.wq, layer.bq, q_},
                            DeviceProduct{layer.wk, layer.bk, k_},
                            DeviceProduct{layer.wv, layer.bv, v_}};
  ops_.products("attn_qkv", products, normed_, n_);
  ops_.attend(layer, kv_[static_cast<size_t>(index)], q_, k_, v_, attended_);
  product("attn_output", layer.wo, layer.bo, attended_, projected_);
  ops_.add("residual", projected_, residual_);
}

void DenseLayers::tap_before_attention(bool on) {
  taps_before_ = on;
  if (on && before_attention_.size() == 0) {
    before_attention_ = {device_, shape_.n_batch * config_.d_model, "activations"};
  }
}

// Through a buffer that attention fills last.
void DenseLayers::write_down_residual(int64_t index) {
  ops_.normalize(weights_.layer(index).ffn_norm, residual_, n_, projected_);
  device_.copy_to_host(Stream::kCompute, before_attention_.data(), projected_,
                       n_ * config_.d_model * kFloat);
}

void DenseLayers::attention_and_gate(int64_t index) {
  const int32_t ahead = reachable(index);
  ranked_ = !shape_.router && ops_.ranks(n_);
  int64_t words = ranked_ ? rank_words(n_, ahead) : n_ * config_.routing.n_experts * (1 + ahead);
  if (shape_.router) words = 0;
  gate_bytes_ = (n_ * config_.d_model + words) * kFloat;
  if (before_attention() != nullptr) write_down_residual(index);
  gate_ = ops_.kept(index, [&] {
    attention(index);
    return gate(index);
  });
}

Timepoint DenseLayers::gate(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  const int32_t ahead = reachable(index);
  const DeviceAddr behind = normed_ + n_ * config_.d_model * kFloat;
  const DeviceAddr logits = behind + (ranked_ ? rank_words(n_, ahead) * kFloat : 0);
  if (shape_.router) {
    ops_.normalize(layer.ffn_norm, residual_, n_, normed_);
    return device_.copy_to_host(Stream::kCompute, gate_host_.data(), normed_, gate_bytes_);
  }
  const DeviceProduct router{layer.router, {}, logits};
  ops_.normalize_products(layer.ffn_norm, residual_, n_, normed_, "router", {&router, 1});
  const int64_t gate_bytes = n_ * config_.routing.n_experts * kFloat;
  if (ahead > 0) look_ahead(index, ahead, logits + gate_bytes);
  if (ranked_) {
    const DeviceAddr scores = behind + n_ * n_ranks_ * kFloat;
    const DeviceAddr reused = scores + n_ * n_ranks_ * kFloat;
    ops_.top_experts(logits, n_, n_ranks_, behind, scores);
    if (ahead > 0) {
      ops_.top_experts(logits + gate_bytes, ahead * n_, config_.routing.top_k, reused, {});
    }
  }
  return device_.copy_to_host(Stream::kCompute, gate_host_.data(), normed_, gate_bytes_);
}

void DenseLayers::look_ahead(int64_t index, int32_t ahead, DeviceAddr logits) {
  constexpr size_t kMostProducts = 3;  // of a call
  const std::span<const DeviceGuess> guesses = weights_.guesses(index);
  std::array<DeviceProduct, kMostProducts> products;
  size_t n = 0;
  for (size_t i = 0; i < static_cast<size_t>(ahead); ++i) {
    products[n++] = {guesses[i].w, guesses[i].bias, logits};
    logits = logits + n_ * config_.routing.n_experts * kFloat;
    if (n < kMostProducts && i + 1 < static_cast<size_t>(ahead)) continue;
    ops_.products("lookahead", std::span(products).first(n), normed_, n_);
    n = 0;
  }
}

void DenseLayers::wait_for_gate() {
  device_.host_wait(gate_);
  device_.host_access("routing", gate_host_.data(), gate_bytes_, false);
  if (before_attention() != nullptr) {  // came before the gate
    device_.host_access("tap", before_attention_.data(), n_ * config_.d_model * kFloat, false);
  }
}

void DenseLayers::shared_expert(int64_t index) {
  const DeviceLayer& layer = weights_.layer(index);
  if (layer.shared) ops_.shared_expert(*layer.shared, normed_, residual_);
}

void DenseLayers::add_from_host(const float* moe) {
  // On the compute stream: the copy engine may be busy with experts that nobody waits for.
  device_.copy_to_device(Stream::kCompute, moe_, moe, n_ * config_.d_model * kFloat);
  ops_.add("combine", moe_, residual_);
}

std::span<const float> DenseLayers::head(int64_t n) {
  TANDEM_CHECK(n >= 0 && n <= n_ && n <= shape_.max_logits, "%lld rows of logits",
               static_cast<long long>(n));
  if (n == 0) return {};
  const DeviceAddr last = residual_ + (n_ - n) * config_.d_model * kFloat;
  ops_.normalize(weights_.output_norm(), last, n, normed_);
  const DeviceProduct logits{weights_.output(), {}, logits_};
  ops_.products("output", {&logits, 1}, normed_, n);
  device_.host_wait(device_.copy_to_host(Stream::kCompute, logits_host_.data(), logits_,
                                         n * config_.n_vocab * kFloat));
  device_.host_access("sampling", logits_host_.data(), n * config_.n_vocab * kFloat, false);
  return {logits_host_.data(), static_cast<size_t>(n * config_.n_vocab)};
}

}  // namespace tandem
