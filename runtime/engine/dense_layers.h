// Everything of a step that is not a routed expert: embedding, attention with its KV cache, norms,
// the gate, the shared expert, the head. Lives on the device; the residual stream does too. What is
// computed, and in which order; the kernels are those of a DeviceOps.
//
// Beside a layer's own gate, those of later layers can be applied to the same residual, each behind
// its own layer's norm. What they say is a guess of what those layers will route, since the
// residual changes slowly from layer to layer (arXiv 2312.17238 shows it for Mixtral). A fitted
// lookahead (runtime/pregate) stands in their place where there is one.
//
// Called by the thread that runs the step loop. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/host_array.h"
#include "runtime/engine/device_ops.h"
#include "runtime/engine/device_weights.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/model/model.h"
#include "scheduler/executor.h"

namespace tandem {

// Bytes of the KV cache of all layers.
int64_t kv_cache_bytes(const ModelConfig& config, const EngineShape& shape);

class DenseLayers {
 public:
  // All outlive this. MemoryError when device or host are too small.
  DenseLayers(const Model& model, Device& device, DeviceOps& ops, const EngineShape& shape);

  void embed(const Batch& batch);
  // Attention, and then the gate: normalises the residual for the experts and computes the router's
  // logits, and what later layers' routers say of the residual. All are on their way to
  // gate_logits(), reused_logits() and expert_input() when this returns; they are there after
  // wait_for_gate(). Where layers have no router there is expert_input() only.
  void attention_and_gate(int64_t layer);
  void wait_for_gate();
  // From now on, or not any more, the residual before a layer's attention is written down, too.
  // Costs a norm and a copy of each layer. MemoryError when the host is too small.
  void tap_before_attention(bool on);
  // [n, d], normalised, with the gain of the layer's router; there after wait_for_gate(). Null
  // where it is not written down: unasked, or because the device has ranked experts.
  const float* before_attention() const {
    return taps_before_ && !ranked_ ? before_attention_.data() : nullptr;
  }
  void shared_expert(int64_t layer);
  // residual += moe, where moe is [n, d] f32 in host memory.
  void add_from_host(const float* moe);
  // Logits of the last n rows. [n, n_vocab] f32, valid until the next call.
  std::span<const float> head(int64_t n);

  // Whether the device has ranked experts, as it does for many tokens: then there are ids and
  // scores, [n, policy_ranks()], else logits, [n, n_experts].
  bool ranked() const { return ranked_; }
  std::span<const ExpertId> ranked_ids() const { return ids_at(0, n_ * n_ranks_); }
  const float* ranked_scores() const { return behind_input() + n_ * n_ranks_; }
  const float* gate_logits() const { return behind_input(); }
  // Distances of the lookahead, and how many of them lead to a layer of the model: the first ones.
  int32_t distances() const { return shape_.lookahead.count; }
  int32_t reachable(int64_t layer) const;
  // Of the i-th distance of the lookahead, i < reachable(layer): ids of the selection, [n, top_k],
  // or logits, [n, n_experts].
  std::span<const ExpertId> reused_ids(int32_t i) const {
    const int64_t selected = n_ * config_.routing.top_k;
    return ids_at(2 * n_ * n_ranks_ + i * selected, selected);
  }
  const float* reused_logits(int32_t i) const {
    return gate_logits() + (i + 1) * n_ * config_.routing.n_experts;
  }
  const float* expert_input() const { return gate_host_.data(); }  // [n, d]
  DeviceAddr residual() const { return residual_; }                // [n, d]
  DeviceAddr normed() const { return normed_; }                    // [n, d]
  int64_t n_tokens() const { return n_; }

 private:
  void attention(int64_t layer);
  void write_down_residual(int64_t layer);
  Timepoint gate(int64_t layer);
  // Logits of the first `ahead` distances.
  void look_ahead(int64_t layer, int32_t ahead, DeviceAddr logits);
  DeviceAddr floats(int64_t n, const char* tag);
  const float* behind_input() const { return expert_input() + n_ * config_.d_model; }
  // What is there is ids, as a kernel wrote them.
  std::span<const ExpertId> ids_at(int64_t word, int64_t n) const {
    return {reinterpret_cast<const ExpertId*>(behind_input() + word), static_cast<size_t>(n)};
  }
  // Words of 4 bytes that ids and scores of n tokens take, with so many distances.
  int64_t rank_words(int64_t n, int64_t ahead) const {
    return n * (2 * n_ranks_ + ahead * config_.routing.top_k);
  }
  // y = W x + bias of the step's tokens.
  void product(const char* name, const WeightView& w, const DeviceVector& bias, DeviceAddr x,
               DeviceAddr y);

  const Model& model_;
  const ModelConfig& config_;
  Device& device_;
  DeviceOps& ops_;
  EngineShape shape_;
  DeviceWeights weights_;
  std::vector<KvLayer> kv_;
  int64_t n_ = 0;  // tokens of the current step
  bool taps_before_ = false;
  int64_t n_ranks_;
  bool ranked_ = false;
  Timepoint gate_{};
  int64_t gate_bytes_ = 0;

  // Device buffers, f32: [n_batch, …]
  DeviceAddr residual_, q_, k_, v_, attended_, projected_, moe_;
  // [n, d], and behind the step's n rows ids and scores, if the device ranks, and the gates' logits
  // [1 + distances, n, n_experts]: what the host wants of a layer is one copy, of the front.
  DeviceAddr normed_;
  DeviceAddr logits_;  // [max_logits, n_vocab]

  // Host buffers
  HostArray<float> embedded_;
  HostArray<float> gate_host_;  // as what begins at normed_
  HostArray<float> logits_host_;
  HostArray<float> before_attention_;  // [n_batch, d], from the first tap on
};

}  // namespace tandem
