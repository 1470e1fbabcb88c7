// Carries out a step on a real model: dense layers on the device, routed experts split between
// the device (those in slots) and the CPU (from the mapped file). The CPU's are computed beside the
// thread that feeds the device: run() begins them, the next layer is enqueued behind them, and the
// host waits for them when it wants that layer's routing.
// Called by the thread that runs the step loop. Nothing allocates after the first steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/side_thread.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/decoupled_routes.h"
#include "runtime/engine/dense_layers.h"
#include "runtime/engine/device_ops.h"
#include "runtime/engine/expert_slots.h"
#include "runtime/engine/layer_guesses.h"
#include "runtime/model/model.h"
#include "runtime/model/shape_of_model.h"
#include "scheduler/cost_model.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

// What a layer's router saw and said, where the host has both: not where the device ranks experts.
struct RouterTap {
  LayerId layer;
  int64_t first_pos = 0;  // in the sequence
  std::span<const int32_t> tokens;
  // [n, d] f32: the residual behind attention, normalised, with gain
  const float* inputs = nullptr;
  const float* logits = nullptr;  // [n, n_experts] f32
  // Likewise the residual before attention, with the same gain. Null unless asked for.
  const float* before_attention = nullptr;
};

struct ExecutorStats {
  uint64_t experts_cpu = 0;  // expert computations, one per layer, expert and step
  uint64_t experts_gpu = 0;
  uint64_t experts_split = 0;  // of each a part on either side
  double cpu_wait_us = 0;      // that the thread of the step loop waited for the CPU's experts
};

// Cost of one expert of each layer, for planner and executor.
std::vector<ExpertCost> expert_costs(const Model& model);

// How much of the device's memory the expert cache may take.
struct CacheWish {
  std::optional<int32_t> slots{};  // of the mean size; default: what is left
  PoolShape pool = PoolShape::kShared;
};

// Thrown out of a step that its layer hook stopped. The step has no result.
struct StepStopped {};

// What so many slots take, of the mean size: rounded up, so that they fit exactly where experts are
// equal. expert_bytes: [n_layers].
int64_t wished_bytes(std::span<const int64_t> expert_bytes, int32_t slots);

class HybridExecutor final : public Executor {
 public:
  // Told before each layer how many are done; false stops the step with StepStopped.
  using LayerHook = std::function<bool(int64_t layers_done)>;
  // Told each layer's routing as soon as it is known.
  using RoutingHook = std::function<void(const RoutingDecision&)>;
  // Told what each router saw and said, unless the device has ranked experts.
  using TapHook = std::function<void(const RouterTap&)>;

  HybridExecutor(const Model& model, Device& device, ThreadPool& pool, const CostModel& costs,
                 const EngineShape& shape, const CacheWish& wish);
  ~HybridExecutor() override;
  HybridExecutor(const HybridExecutor&) = delete;
  HybridExecutor& operator=(const HybridExecutor&) = delete;

  int32_t n_layers() const override { return static_cast<int32_t>(model_.config().n_layers); }
  Clocks clocks() const override;
  void begin_step(const Batch& batch) override;
  // FileError when the router's logits are not finite; the step is then lost.
  const RoutingDecision& route(LayerId layer) override;
  void run(const LayerPlan& plan) override;
  void prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) override;
  std::span<const float> end_step() override;

  // Null where layers have routers of their own. know() before a step of these tokens.
  DecoupledRoutes* decoupled() { return decoupled_.get(); }
  // Waits for what a step that was stopped has left the CPU to do.
  void finish_stopped() { finish_cpu(); }
  void set_layer_hook(LayerHook hook) { layer_hook_ = std::move(hook); }
  void set_routing_hook(RoutingHook hook) { routing_hook_ = std::move(hook); }
  // MemoryError when the host is too small for what the hook is told of before attention.
  void set_tap_hook(TapHook hook, bool before_attention = false) {
    dense_.tap_before_attention(before_attention);
    tap_hook_ = std::move(hook);
  }
  int32_t n_slots() const { return slots_.count(); }
  // Whether an expert may be fetched without a slot: it passes through a buffer.
  bool streams() const { return slots_.n_buffers() > 0; }
  int64_t slots_bytes() const { return slots_.bytes(); }
  // What the cache that rules these slots must look like.
  const CacheShape& cache_shape() const { return slots_.shape(); }
  // Why there are fewer slots than there seemed to be room for; empty: there are not.
  const std::string& refused_slots() const { return slots_.refusal(); }
  const ExecutorStats& stats() const { return stats_; }
  // How well later layers were guessed; null where they are not.
  const LookaheadScores* lookahead_scores() const { return guesses_.scores(); }
  bool graphs_refused() const { return ops_->graphs_refused(); }

 private:
  // False when a logit is not finite.
  bool choose_experts(LayerId layer);
  // FileError with the tensor that makes the layer's router give values that are not finite.
  [[noreturn]] void name_damage(int64_t layer) const;
  // One launch: [first, first + count) of the layer's experts on the device.
  void launch_gpu(size_t first, size_t count);
  void take_experts(const LayerPlan& plan);
  // Those of the plan's experts that the device computes, in the order of their launches.
  void order_gpu(const LayerPlan& plan);
  void fetch(const LayerPlan& plan);
  void begin_gpu(const LayerPlan& plan);
  // Launches on_gpu_ up to `end` at least.
  void launch_until(const LayerPlan& plan, size_t end);
  // Behind the last expert of a launch that begins with one that has yet to land.
  size_t late_end(const LayerPlan& plan, size_t first) const;
  void start_cpu(const LayerPlan& plan);
  void compute_cpu();
  // Enqueues what adds the CPU's experts, behind them.
  void add_cpu();
  // Waits for the CPU's experts.
  void finish_cpu();
  void drop_copied();
  std::span<const ExpertRow> rows_of(const PlannedExpert& expert) const;
  // Where in the intermediate dimension the leading pieces of an expert of the plan end.
  int64_t cut(const LayerPlan& plan, int32_t piece) const { return cuts_.at(piece, plan.pieces); }

  const Model& model_;
  Device& device_;
  ThreadPool& pool_;
  CostModel costs_;
  std::vector<ExpertCost> expert_costs_;
  ExpertCuts cuts_;
  std::unique_ptr<DeviceOps> ops_;
  DenseLayers dense_;
  ExpertSlots slots_;
  Router router_;
  RoutingDecision routing_;
  std::unique_ptr<DecoupledRoutes> decoupled_;
  LayerGuesses guesses_;
  Batch batch_;  // of the current step
  LayerHook layer_hook_;
  RoutingHook routing_hook_;
  TapHook tap_hook_;
  ExecutorStats stats_;

  // The CPU's experts of the last layer that ran, until finish_cpu()
  bool cpu_started_ = false;
  bool cpu_added_ = false;
  Timepoint cpu_done_{};
  std::vector<ExpertCall> cpu_calls_;
  std::vector<ExpertKey> copied_;             // need no copy in host memory behind it
  std::vector<float> cpu_hidden_;             // [n_batch * top_k, ff]
  HostArray<float> cpu_out_;                  // [n_batch, d]
  std::vector<ExpertRow> rows_;               // [n_batch * top_k], as routing_.tokens
  std::vector<PlannedExpert> experts_;        // the plan's, a buffer for a slot if need be
  std::vector<const PlannedExpert*> by_id_;   // the same
  std::vector<const PlannedExpert*> on_gpu_;  // in the order of their launches
  size_t n_there_ = 0;                        // that need no waiting: the first of these
  size_t n_launched_ = 0;                     // of these
  std::vector<DeviceExpert> device_experts_;  // likewise
  std::vector<double> lands_us_;              // when the others land, as far as enqueued; modelled
  std::vector<int32_t> add_order_;            // indices of those, by id
  std::optional<SideThread>
      cpu_;  // last: it uses the others. None where there is no device to feed
};

}  // namespace tandem
