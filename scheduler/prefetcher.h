// Moves experts over the idle link before they are needed. A wrong guess costs bytes, never
// output: the model's own gate decides what runs.
#pragma once

#include <span>

#include "cache/expert_cache.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

class Prefetcher {
 public:
  virtual ~Prefetcher() = default;
  virtual void observe(const RoutingDecision& routing) = 0;
  virtual std::span<const PrefetchRequest> next(LayerId layer, const ExpertCache& cache,
                                                const Clocks& clocks) = 0;
};

// Predicts nothing and asks for nothing.
class NoPrefetcher final : public Prefetcher {
 public:
  void observe(const RoutingDecision&) override {}
  std::span<const PrefetchRequest> next(LayerId, const ExpertCache&, const Clocks&) override {
    return {};
  }
};

}  // namespace tandem
