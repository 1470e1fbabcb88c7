// Caching for a rule that never fetches: every expert that the layer just missed is copied behind
// the CPU's work on it and takes the slot of whom the policy likes least. What the idle link cannot
// begin before the next layer is routed is dropped. To compare with: HybriMoE's ablation (arXiv
// 2504.05897, Table III, "+Caching") does not say when its experts enter the cache.
#pragma once

#include <vector>

#include "scheduler/link_filler.h"
#include "scheduler/prefetcher.h"

namespace tandem {

class MissPrefetcher final : public Prefetcher {
 public:
  MissPrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                 const ExpertCache& cache);

  void observe(const RoutingDecision& routing, ExpertCache& cache) override {
    filler_.observe(routing, cache);
  }
  void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) override;
  TransferStats stats() const override { return filler_.stats(); }

 private:
  // Sends what is missing; false when the window is full.
  bool finish(ExpertKey key, ExpertCache* cache);

  LinkFiller filler_;
  std::vector<ExpertKey> under_way_;  // begun and not complete, in their order
  std::vector<SlotId> entered_;       // of this layer; none of them makes room for the next
};

}  // namespace tandem
