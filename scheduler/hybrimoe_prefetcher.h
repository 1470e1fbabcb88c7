// HybriMoE's impact-driven prefetch (arXiv 2504.05897 section IV-C) with everything in its favour:
// the predicted experts of the next three layers are simulated with the greedy scheduler, the one
// whose presence shortens its layer most is brought, at most `per_layer` of them a layer; only over
// the idle link, pre-empted by demand, and only when it can land in time. The paper gives no gain
// formula, budget or deadline; the published code does none of it.
#pragma once

#include <memory>
#include <vector>

#include "scheduler/link_filler.h"
#include "scheduler/placement.h"
#include "scheduler/predictor.h"
#include "scheduler/prefetcher.h"

namespace tandem {

class HybriMoePrefetcher final : public Prefetcher {
 public:
  HybriMoePrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                     const ExpertCache& cache, std::unique_ptr<Predictor> predictor,
                     int32_t ahead = 3, int32_t per_layer = 2);

  void observe(const RoutingDecision& routing, ExpertCache& cache) override;
  void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) override;
  TransferStats stats() const override { return filler_.stats(); }
  const Predictor* predictor() const override { return predictor_.get(); }

 private:
  struct Choice {
    ExpertKey key;
    double gain = 0;
    int32_t ahead = 0;
  };
  Choice best(const ExpertCache& cache);
  double makespan(LayerId layer);
  void protect(SlotId slot, LayerId layer, ExpertCache* cache);

  std::vector<LayerCosts> costs_;
  int32_t n_layers_;
  int32_t n_experts_;
  int32_t ahead_;
  int32_t per_layer_;
  std::unique_ptr<Predictor> predictor_;
  LinkFiller filler_;
  int32_t layer_ = 0;
  std::vector<float> loads_;       // [n_experts]
  std::vector<ExpertId> guessed_;  // heaviest first
  LayerProblem problem_;
  LayerProblem scratch_;
  std::vector<ExpertKey> under_way_;            // started and not complete
  std::vector<std::vector<SlotId>> protected_;  // [n_layers]
};

}  // namespace tandem
