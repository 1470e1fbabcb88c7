// The achievable bound: perfect knowledge of the next two tokens over the same link. What is wanted
// soonest is brought first, as long as it is wanted sooner than whom it displaces (Belady). Greedy,
// so not a proof of what is possible; the strict bound is no miss ever.
#pragma once

#include <vector>

#include "scheduler/future.h"
#include "scheduler/link_filler.h"
#include "scheduler/prefetcher.h"

namespace tandem {

class ClairvoyantPrefetcher final : public Prefetcher {
 public:
  // `future` outlives it. The cache's policy should be belady on the same future.
  ClairvoyantPrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                        const ExpertCache& cache, const Future& future, int32_t tokens = 2)
      : future_(future),
        visits_(tokens * cache.shape().n_layers),
        filler_(model, experts, cache, 0.5) {}

  void observe(const RoutingDecision& routing, ExpertCache& cache) override {
    filler_.observe(routing, cache);
  }
  void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) override;
  TransferStats stats() const override { return filler_.stats(); }

 private:
  // False when the window is full.
  bool bring(ExpertKey key, int32_t ahead, ExpertCache* cache);

  const Future& future_;
  int32_t visits_;
  LinkFiller filler_;
};

}  // namespace tandem
