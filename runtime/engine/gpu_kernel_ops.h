// DeviceOps by GPU kernels (kernels/gpu/gpu_ops.h), real or emulated. Weights lie packed in device
// memory, as DeviceWeights and ExpertSlots bring them there. Bodies of launches only enqueue, and
// hold copies of what they need.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"
#include "runtime/device/device.h"
#include "runtime/device/host_array.h"
#include "runtime/engine/device_ops.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/model/model.h"

namespace tandem {

// A packed matrix as kernels take it; data: as they see it.
inline gpu::PackedWeights packed_weights(const std::byte* data, const WeightView& w) {
  return {reinterpret_cast<const uint8_t*>(data), w.run_stride(), static_cast<int>(w.rows),
          static_cast<int>(w.cols)};
}
inline int64_t product_flops(const WeightView& w, int64_t n) { return 2 * w.rows * w.cols * n; }

// Experts are in gpu_expert_ops.cc, the residual and its norms in gpu_norm_ops.cc.
class GpuKernelOps final : public DeviceOps {
 public:
  // All outlive this; device.kernels() is not null. MemoryError when the device is too small,
  // ConfigError for batches beyond what kernels address.
  GpuKernelOps(const Model& model, Device& device, const EngineShape& shape);

  ~GpuKernelOps() override;
  GpuKernelOps(const GpuKernelOps&) = delete;
  GpuKernelOps& operator=(const GpuKernelOps&) = delete;

  void begin_step(int64_t first_pos, int64_t n) override;
  Timepoint kept(int64_t part, FunctionRef<Timepoint()> enqueue) override;
  bool graphs_refused() const override { return graphs_refused_; }
  void normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) override;
  void products(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                int64_t n) override;
  void normalize_products(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to,
                          const char* name, std::span<const DeviceProduct> products) override;
  void add(const char* name, DeviceAddr x, DeviceAddr y) override;
  void attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q, DeviceAddr k,
              DeviceAddr v, DeviceAddr out) override;
  bool ranks(int64_t n) const override;
  void top_experts(DeviceAddr logits, int64_t n, int64_t count, DeviceAddr ids,
                   DeviceAddr scores) override;
  void shared_expert(const SharedExpert& shared, DeviceAddr x, DeviceAddr y) override;
  void begin_experts(std::span<const DeviceExpert> experts,
                     std::span<const int32_t> by_id) override;
  Timepoint experts(int64_t first, int64_t count, DeviceAddr x, DeviceAddr y) override;
  void end_experts(DeviceAddr y) override;

 private:
  // Rows of activations as products take them.
  struct Rows {
    DeviceAddr at;
    int64_t n;
    int64_t cols;
    XKind kind;
    int64_t stride() const { return kind == XKind::kFloat ? cols * kFloat : x_bytes(kind, cols); }
    int64_t bytes() const { return n * stride(); }
    gpu::PackedX view(const KernelScope& scope) const;
  };
  // Room for packed activations, of each kind that the model's weights want, and guesses of later
  // layers.
  static constexpr size_t kKinds = 4;
  using Room = std::array<DeviceAddr, kKinds>;
  static DeviceAddr& of(Room& room, XKind kind) { return room[static_cast<size_t>(kind)]; }
  Room make_room(const Model& model, int64_t n, int64_t cols, bool guesses);

  void pack(DeviceAddr from, const Rows& to);
  // x: [n, cols] f32, packed in room_, unless it is there already.
  Rows packed(XKind kind, DeviceAddr x, int64_t n, int64_t cols);
  // Whatever was packed of this address is not what is there any more.
  void changed(DeviceAddr x);

  // What kernels know of the experts of a layer, in host and device memory: where uses of a token
  // begin int [n + 1], and they int [uses], weights float [uses], tokens int [uses], experts
  // gpu::ExpertUses [n_experts]. Room for as many uses as there can be: so what a graph knows of it
  // stays where it is.
  struct Table {
    int64_t n_experts = 0;
    int64_t n_uses = 0;
    int64_t n_tokens = 0;
    int64_t most_uses = 0;
    int64_t order_at() const { return (n_tokens + 1) * 4; }
    int64_t weights_at() const { return order_at() + most_uses * 4; }
    int64_t tokens_at() const { return weights_at() + most_uses * 4; }
    int64_t experts_at() const { return (tokens_at() + most_uses * 4 + 7) / 8 * 8; }
    int64_t bytes() const {
      return experts_at() + n_experts * static_cast<int64_t>(sizeof(gpu::ExpertUses));
    }
  };

  // What the residual has yet to get, in this order; its next norm adds it.
  struct Pending {
    DeviceAddr y;  // the residual; null: nothing
    DeviceAddr first;
    DeviceAddr shared, shared_gate;
    bool uses = false;  // of table_, from out_
    DeviceAddr last;
  };
  // A norm of y with what it has yet to get; to: null where it is not wanted. packs: into room_,
  // too.
  struct Norm {
    DeviceVector gain;
    DeviceAddr y;
    int64_t n;
    DeviceAddr to;
    Pending add;
    Table uses;
    Room copies;
  };
  Norm make_norm(const DeviceVector& gain, DeviceAddr y, int64_t n, DeviceAddr to, bool packs);
  // Adds what a norm touches to touches_, and returns the bytes that it moves. sums: y is written.
  int64_t declare_norm(const Norm& norm, bool sums);
  gpu::ResidualNorm norm_call(const KernelScope& scope, const Norm& norm, bool sums) const;
  // y += pending_; to = norm(y) * gain, or nothing without a gain.
  void residual_norm(const DeviceVector& gain, DeviceAddr y, int64_t n, DeviceAddr to, bool packs);
  // The same, y and pending_ staying as they are, and products of one type.
  void norm_products(const char* name, const DeviceVector& gain, DeviceAddr y, int64_t n,
                     DeviceAddr to, const DeviceProduct& product);
  bool can_norm_with(const DeviceProduct& product, DeviceAddr y, int64_t n) const;
  // Products of one type.
  struct Parts {
    std::array<DeviceProduct, 3> of;
    size_t n = 0;
  };
  void launch_products(const char* name, const Parts& parts, DeviceAddr x, int64_t n);
  void prepare_heads(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q, DeviceAddr k,
                     DeviceAddr v);
  int64_t kv_bytes(int64_t n) const;
  gpu::KvCache kv_view(const KernelScope& scope, const KvLayer& cache, bool writes) const;
  // Experts of one launch and their uses, [first_use, first_use + n_uses) of all.
  struct ExpertGroup {
    std::span<const DeviceExpert> experts;
    bool from_table;         // else one, used by all tokens, which is
    gpu::ExpertUses single;  // this
    int64_t first;           // in the table
    int64_t first_use;
    int64_t n_uses;
    int64_t most_uses;
    int64_t ff;
  };
  // out_[use] = expert(x[token]) of each use.
  Timepoint ffn(const ExpertGroup& group, DeviceAddr x);
  void hidden(const ExpertGroup& group, gpu::HiddenPart part, DeviceAddr x);
  Timepoint output(const ExpertGroup& group);
  // Adds a matrix of each expert to what a launch touches, moves and computes.
  void declare_experts(const ExpertGroup& group, WeightView ExpertWeights::*matrix, int64_t* bytes,
                       int64_t* flops);
  gpu::ExpertCalls calls(const KernelScope& scope, const ExpertGroup& group) const;
  gpu::ExpertUses uses_of(const DeviceExpert& expert, int64_t first_use) const;
  Touch all(DeviceAddr at, int64_t floats_per_token, bool write) const;

  const ModelConfig& config_;
  Device& device_;
  const gpu::GpuOps& kernels_;
  KvShape kv_shape_;
  int64_t kv_bytes_k_;  // of one layer
  int64_t kv_bytes_v_;

  // Parts of steps of one token that were kept, each for what the residual had yet to get: how they
  // leave that, and what they packed.
  struct KeptPart {
    uint32_t pending;  // which of first, shared, shared_gate, uses, last: bits
    Graph graph;
    int64_t first_pos;  // that launches reckoned with
    Pending pending_after;
    Room packed_after;
  };
  uint32_t pending_kind() const;
  Graph captured(FunctionRef<Timepoint()> enqueue);
  void forget_kept() noexcept;
  std::vector<std::vector<KeptPart>> kept_;  // by part
  int kept_spans_ = 0;                       // of attention, in all of them
  bool graphs_refused_ = false;

  int64_t first_pos_ = 0;  // of the current step
  int64_t n_ = 0;
  // What kernels know of a step: its first position int, and kStepHeader bytes behind its beginning
  // the rope table [n_batch, n_rot] f32.
  static constexpr int64_t kStepHeader = 64;
  HostArray<std::byte> step_host_;
  DeviceAddr step_;
  DeviceAddr rope_;     // in there
  DeviceAddr scratch_;  // of attention
  int64_t scratch_bytes_ = 0;
  DeviceAddr shared_scale_;  // [n_batch] f32; null without shared experts
  DeviceAddr shared_out_;    // [n_batch, d] f32; likewise
  DeviceAddr q_ready_;       // [n_batch, q_width] f32
  Pending pending_{};
  Room room_;           // [n_batch] rows
  Room packed_from_{};  // where the rows in room_ come from
  Room hidden_room_;    // [n_batch * top_k] rows, or of the shared expert's if those are more
  int64_t hidden_bytes_;
  DeviceAddr hidden_;  // [n_batch * top_k, ff] f32, likewise
  int64_t out_bytes_;
  DeviceAddr out_;  // [n_batch * top_k, d] f32

  gpu::TokenUses token_uses(const KernelScope& scope, const Table& t) const;
  Table table_{};
  DeviceAddr table_at_;
  HostArray<std::byte> table_host_;
  std::span<const DeviceExpert> experts_;
  std::vector<int64_t> first_use_;  // [experts]
  std::vector<Touch> touches_;
};

}  // namespace tandem
