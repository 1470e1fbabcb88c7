// Who carries out a step: real devices (HybridExecutor) or a routing trace on a virtual clock
// (SimExecutor). Called by one thread, in the order that run_step shows.
#pragma once

#include <cstdint>
#include <span>

#include "scheduler/layer_plan.h"
#include "scheduler/routing.h"

namespace tandem {

// Consecutive tokens of one sequence.
struct Batch {
  std::span<const int32_t> tokens;
  int64_t first_pos = 0;  // position of tokens[0] in the sequence
  int32_t n_logits = 1;   // logits are wanted for the last n_logits tokens
};

// A part of an expert that a prefetcher wants copied; nobody waits for it.
struct CopySlice {
  ExpertKey key;
  SlotId slot;
  int32_t first_piece = 0;
  int32_t n_pieces = 0;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual int32_t n_layers() const = 0;
  // After run(): when CPU, GPU and link end what they were given, which is what planners that
  // calibrate learn from.
  virtual Clocks clocks() const = 0;

  virtual void begin_step(const Batch& batch) = 0;
  // Runs the layer up to its gate and returns the routing; at most one host sync.
  virtual const RoutingDecision& route(LayerId layer) = 0;
  // Enqueues the experts and returns.
  virtual void run(const LayerPlan& plan) = 0;
  // Enqueues the slices and tells when each has landed, as modelled. landed: [slices.size()].
  virtual void prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) = 0;
  // Finishes the step. [n_logits, n_vocab] f32, valid until the next begin_step.
  virtual std::span<const float> end_step() = 0;
};

}  // namespace tandem
