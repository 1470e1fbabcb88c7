// Moves experts over the idle link before they are needed. A wrong guess costs bytes, never
// output: the model's own gate decides what runs.
// Owned by the engine; called by the thread that runs the step loop.
#pragma once

#include <cstdint>

#include "cache/expert_cache.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

class Predictor;

// How speculative transfers ended; each is counted once.
struct TransferStats {
  uint64_t started = 0;
  uint64_t on_time = 0;    // its expert was used after all of it had landed
  uint64_t late = 0;       // used while part of it was missing
  uint64_t unused = 0;     // lost its slot before it was used
  uint64_t polluting = 0;  // of these: whom it had displaced was wanted first
  int64_t bytes = 0;       // sent, by the pieces
  int64_t wasted_bytes = 0;

  // Adds what happened between two moments.
  void add(const TransferStats& before, const TransferStats& after) {
    started += after.started - before.started;
    on_time += after.on_time - before.on_time;
    late += after.late - before.late;
    unused += after.unused - before.unused;
    polluting += after.polluting - before.polluting;
    bytes += after.bytes - before.bytes;
    wasted_bytes += after.wasted_bytes - before.wasted_bytes;
  }
};

class Prefetcher {
 public:
  virtual ~Prefetcher() = default;
  // The layer's routing is known.
  virtual void observe(const RoutingDecision& routing, ExpertCache& cache) = 0;
  // The layer has been enqueued: fills the link until the next layer's routing is expected.
  virtual void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) = 0;
  virtual TransferStats stats() const = 0;
  // What guesses for it; null: nobody.
  virtual const Predictor* predictor() const { return nullptr; }
};

// Predicts nothing and asks for nothing.
class NoPrefetcher final : public Prefetcher {
 public:
  void observe(const RoutingDecision&, ExpertCache&) override {}
  void prefetch(const LayerPlan&, ExpertCache&, Executor&) override {}
  TransferStats stats() const override { return {}; }
};

}  // namespace tandem
