// What a layer says of the routing of later ones: from logits (dense_layers.h) to experts that
// would be selected and, where the lookahead is calibrated, to P(use) of each, or from tables
// (table_guesses.h); and how often that came true. Called by the thread that runs the step loop.
// Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/engine/dense_layers.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/engine/table_guesses.h"
#include "scheduler/executor.h"
#include "scheduler/lookahead_scores.h"
#include "scheduler/routing.h"

namespace tandem {

class LayerGuesses {
 public:
  // MemoryError when the host is too small.
  LayerGuesses(const ModelConfig& config, const EngineShape& shape, Device& device);

  void begin_step(const Batch& batch) {
    if (tables_) tables_->begin_step(batch);
  }
  // Fills in what the routing of `layer` has of later layers; its spans live until the next call.
  void look_ahead(const DenseLayers& dense, int64_t layer, Router* router,
                  RoutingDecision* routing);
  // Null where nothing is guessed.
  const LookaheadScores* scores() const { return scores_ ? &*scores_ : nullptr; }

 private:
  // Of a router that has chosen every layer's experts.
  void repeat(int64_t layer, RoutingDecision* routing);
  void select(const DenseLayers& dense, int32_t reachable, Router* router,
              RoutingDecision* routing);
  void calibrate(const DenseLayers& dense, int64_t layer, int32_t reachable,
                 RoutingDecision* routing);
  void calibrate(const PregateLink& link, const float* logits, int32_t top_k, std::span<float> use);
  void look_up(RoutingDecision* routing);

  int64_t n_layers_;
  int32_t n_exact_ = 0;                    // distances that are known, not guessed
  std::vector<ExpertId> predicted_;        // [distances, n_batch, top_k]
  std::vector<const PregateLink*> links_;  // [n_layers, distances] of a fitted lookahead
  std::vector<float> use_;                 // [distances, n_batch, n_experts] with one, or tables
  std::vector<float> sorted_;              // [n_experts]
  std::optional<TableGuesses> tables_;
  std::optional<LookaheadScores> scores_;
};

}  // namespace tandem
