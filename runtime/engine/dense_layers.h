// Everything of a step that is not a routed expert: embedding, attention with its KV cache, norms,
// the gate, the shared expert, the head. Lives on the device; the residual stream does too.
// Called by the thread that runs the step loop. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "runtime/device/device.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/device_weights.h"
#include "runtime/engine/gate_reuse.h"
#include "runtime/model/model.h"
#include "scheduler/executor.h"

namespace tandem {

struct EngineShape {
  int64_t n_ctx = 0;       // positions that the KV cache holds
  int64_t n_batch = 0;     // most tokens of one step
  int64_t max_logits = 1;  // most rows of logits of one step
  KvType kv_type_k = KvType::kF16;
  KvType kv_type_v = KvType::kF16;
  Lookahead lookahead{};  // gates of later layers to apply beside each layer's own
};

// Bytes of the KV cache of all layers.
int64_t kv_cache_bytes(const ModelConfig& config, const EngineShape& shape);

class DenseLayers {
 public:
  DenseLayers(const Model& model, Device& device, ThreadPool& pool, const EngineShape& shape);

  void embed(const Batch& batch);
  void attention(int64_t layer);
  // Normalises the residual for the experts and computes the router's logits, and what later
  // layers' routers say of the residual. All are on their way to gate_logits(), reused_logits() and
  // expert_input() when this returns; they are there after the timepoint.
  Timepoint gate(int64_t layer);
  void shared_expert(int64_t layer);
  // residual += moe, where moe is [n, d] f32 in host memory.
  void add_from_host(const float* moe);
  // Logits of the last n rows. [n, n_vocab] f32, valid until the next call.
  std::span<const float> head(int64_t n);

  const float* gate_logits() const { return gate_logits_host_.data(); }  // [n, n_experts]
  // Of the i-th distance of the lookahead, i < gates().reachable(layer). [n, n_experts]
  const float* reused_logits(int32_t i) const {
    return gate_logits() + (i + 1) * n_ * config_.routing.n_experts;
  }
  const GateReuse& gates() const { return gate_reuse_; }
  const float* expert_input() const { return normed_host_.data(); }  // [n, d]
  DeviceAddr residual() const { return residual_; }                  // [n, d]
  DeviceAddr normed() const { return normed_; }                      // [n, d]
  int64_t n_tokens() const { return n_; }

 private:
  struct KvLayer {
    DeviceAddr k, v;
  };
  DeviceAddr floats(int64_t n, const char* tag);
  void project(const DeviceLayer& layer);
  void qk_norm_and_rope(const DeviceLayer& layer);
  void attend(const KvLayer& cache);
  void attention_output(const DeviceLayer& layer);
  void normalize(const DeviceVector& gain, DeviceAddr from, DeviceAddr to, int64_t n);
  // y = W x + bias, of up to three matrices in one launch.
  struct DeviceProduct {
    WeightView w;
    DeviceVector bias;
    DeviceAddr y;
  };
  void matmul_kernel(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                     int64_t n);
  void matmul_kernel(const char* name, const WeightView& w, const DeviceVector& bias, DeviceAddr x,
                     int64_t n, DeviceAddr y);
  Touch all(DeviceAddr at, int64_t floats_per_token, bool write) const;

  const Model& model_;
  const ModelConfig& config_;
  Device& device_;
  ThreadPool& pool_;
  EngineShape shape_;
  DeviceWeights weights_;
  GateReuse gate_reuse_;
  std::vector<KvLayer> kv_;
  int64_t kv_bytes_k_ = 0;  // of one layer
  int64_t kv_bytes_v_ = 0;

  // Of the current step
  int64_t n_ = 0;
  int64_t first_pos_ = 0;

  // Device buffers, f32: [n_batch, …]
  DeviceAddr residual_, normed_, q_, k_, v_, attended_, projected_, moe_, rope_;
  DeviceAddr gate_logits_;  // [1 + distances, n, n_experts]
  DeviceAddr shared_hidden_, shared_scale_;
  DeviceAddr logits_;  // [max_logits, n_vocab]

  // Host buffers
  std::vector<float> embedded_;
  std::vector<float> normed_host_;
  std::vector<float> gate_logits_host_;
  std::vector<float> logits_host_;
  std::vector<ExpertRow> shared_rows_;
};

}  // namespace tandem
