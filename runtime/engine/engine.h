// One model, one sequence: takes tokens, gives logits. Owns the device, the expert cache and the
// step loop's parts. Not thread-safe; several engines may share a Model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/expert_cache.h"
#include "runtime/device/device.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/device_choice.h"
#include "runtime/engine/hybrid_executor.h"
#include "runtime/engine/settings.h"
#include "runtime/model/model.h"
#include "scheduler/hot_set.h"
#include "scheduler/machine_profile.h"
#include "scheduler/planner.h"
#include "scheduler/prefetcher.h"
#include "scheduler/step.h"

namespace tandem {

struct EngineStats {
  CacheStats cache;
  ExecutorStats experts;
  TransferStats prefetched;
  int64_t bytes_h2d = 0;        // after loading
  bool graphs_refused = false;  // the GPU had no memory for them: launches go one by one
  double modelled_seconds = 0;  // on the machine profile
};

class Engine {
 public:
  // MemoryError when host or device are too small, ConfigError for settings that contradict.
  Engine(const Model& model, const MachineProfile& machine, const EngineSettings& settings);
  // On a device that is open; settings.device and what belongs to it are not looked at.
  Engine(const Model& model, const MachineProfile& machine, const EngineSettings& settings,
         OpenDevice device);

  // Appends tokens to the sequence, in batches, and returns the logits of the last n_logits of
  // them: [n_logits, n_vocab] f32, valid until the next call. n_logits is at most
  // settings.max_logits, and more than one only where all of them fall into the last batch.
  // `progress` is told how many tokens are done, layer by layer (a batch half-way through the
  // layers counts half); returning false stops the reading at the last whole batch, and the result
  // is then empty.
  // ConfigError when the context would overflow; the sequence is then unchanged. FileError when
  // the model's weights turn out to be damaged; rewind() before going on.
  std::span<const float> eval(std::span<const int32_t> tokens, int64_t n_logits = 1,
                              const std::function<bool(int64_t done)>& progress = {});

  // Copies the best of a hot set of this model into expert slots that are free; returns how many
  // experts came in. They count as loaded: nothing of it shows in stats(), and settings.copied is
  // told.
  int32_t start_with(const HotSet& hot);
  // What the cache's policy values now, by the model's name; its router hash is left out.
  HotSet hot_set() const;
  // Told each layer's routing as soon as it is known, of steps that may still be stopped.
  void set_routing_hook(HybridExecutor::RoutingHook hook) {
    executor_->set_routing_hook(std::move(hook));
  }

  // Told what each layer's router saw and said, likewise.
  void set_tap_hook(HybridExecutor::TapHook hook, bool before_attention = false) {
    executor_->set_tap_hook(std::move(hook), before_attention);
  }

  // Forgets all tokens from `position` on (at most position()); the expert cache stays warm.
  void rewind(int64_t position);
  int64_t position() const { return position_; }
  int64_t n_ctx() const { return shape_.n_ctx; }
  int64_t n_batch() const { return shape_.n_batch; }
  int32_t n_slots() const { return executor_->n_slots(); }
  // Whether experts without a slot may be fetched, through buffers.
  bool streams() const { return executor_->streams(); }
  const Model& model() const { return model_; }
  const Device& device() const { return *device_; }
  const std::vector<EffectiveSetting>& effective() const { return effective_; }
  EngineStats stats() const;
  // How well later layers were guessed for tokens that were decoded; null where nobody guesses.
  const LookaheadScores* lookahead_scores() const { return executor_->lookahead_scores(); }
  // What guesses for the prefetcher; null: nobody.
  const Predictor* predictor() const { return prefetcher_->predictor(); }

 private:
  void make_executor(const EngineSettings& settings);
  void pin_experts();
  void choose_products(const MachineProfile& machine);
  void make_cache(const EngineSettings& settings);
  void copy_now(std::span<const CopySlice> slices);
  // Chooses the experts of all tokens, where that is done before the layers. False when `progress`,
  // which is told 0, stopped it; the sequence is then unchanged.
  bool route(std::span<const int32_t> tokens, const std::function<bool(int64_t done)>& progress);
  // One batch through the model. False when `progress` stopped it; the sequence is then unchanged.
  bool step(const Batch& batch, int64_t done, const std::function<bool(int64_t done)>& progress,
            std::span<const float>* logits);

  const Model& model_;
  CostModel costs_;
  std::vector<EffectiveSetting> effective_;  // before those whose making writes into it
  std::unique_ptr<Device> device_;
  EngineShape shape_;
  ThreadPool pool_;
  std::unique_ptr<HybridExecutor> executor_;
  std::unique_ptr<ExpertCache> cache_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<Prefetcher> prefetcher_;
  LayerPlan plan_;
  std::function<void(int64_t done, int64_t of)> copied_;
  int64_t position_ = 0;
  int64_t loaded_bytes_h2d_ = 0;
};

}  // namespace tandem
