// Our prefetcher: everything that the idle link could bring is weighed in one currency, the uses
// it is expected to turn from misses into hits, against those that the expert losing its slot would
// have had. Candidates are the experts guessed for the next layers, and those that this layer just
// missed. The idea of weighing by impact is HybriMoE's (arXiv 2504.05897); the currency is ours.
#pragma once

#include <memory>
#include <vector>

#include "cache/policies/scores.h"
#include "scheduler/absent_guesses.h"
#include "scheduler/link_filler.h"
#include "scheduler/predictor.h"
#include "scheduler/prefetcher.h"
#include "scheduler/waste_budget.h"

namespace tandem {

struct PrefetchSettings {
  int32_t ahead = 3;          // layers that are guessed
  int32_t fills = 2;          // just missed experts of a layer that are considered
  double horizon = 1;         // tokens of later use that count, at least
  double patience = 2;        // and for each token that the link needs for what a token misses
  double hysteresis = 0.3;    // how much more a newcomer must be worth than whom it displaces
  double least_gain = 0.05;   // uses; less is not worth a copy
  double least_guess = 0.15;  // uses expected in the layer guessed for; fewer are left alone
  double most_waste = 0.16;   // of the bytes sent that may be for nothing; 1: no limit
  double overrun = 1;         // pieces past the end of the idle time
  int32_t per_layer = 2;      // of "hybrimoe" alone: experts begun in a layer, at most
};

class ImpactPrefetcher final : public Prefetcher {
 public:
  // predictor: may be null; then only just missed experts are brought.
  ImpactPrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                   const ExpertCache& cache, std::unique_ptr<Predictor> predictor,
                   const PrefetchSettings& settings);

  void observe(const RoutingDecision& routing, ExpertCache& cache) override;
  void prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) override;
  TransferStats stats() const override { return filler_.stats(); }
  const Predictor* predictor() const override { return predictor_.get(); }

 private:
  struct Candidate {
    ExpertKey key;
    int32_t ahead = 0;   // layers from now to the one that it is guessed for; 0: it was missed
    float use = 0;       // probability that that layer uses it
    bool known = false;  // to be used, not guessed: in the order of the layers, before all others
    double now = 0;      // uses expected in that layer, what they save counted in
    double gain = 0;     // with those later, once it has landed
    double density = 0;  // of the gain: for each piece to be sent
    WasteBudget::Kind kind = WasteBudget::kCertain;
  };

  void guess(ExpertCache* cache);
  void guess_layer(LayerId layer, int32_t ahead, bool sure, ExpertCache* cache);
  void guess_expert(ExpertKey key, float load, int32_t ahead, bool sure, ExpertCache* cache);
  bool forecast_loads(LayerId layer);
  void add_fills(const LayerPlan& plan, const ExpertCache& cache);
  void weigh(const ExpertCache& cache);
  void weigh(Candidate candidate, double most, const ExpertCache& cache);
  double least_worth(LayerId layer, const ExpertCache& cache);
  bool bring(const Candidate& candidate, ExpertCache* cache);
  double uses(ExpertKey key, double tokens) const;
  double weight(LayerId layer, float load) const;

  PrefetchSettings settings_;
  std::vector<LayerCosts> costs_;
  int32_t n_layers_;
  int32_t n_experts_;
  std::unique_ptr<Predictor> predictor_;
  WasteBudget waste_;
  LinkFiller filler_;
  AbsentGuesses absent_;
  std::unique_ptr<TwoRateUse> own_rates_;  // where the policy forecasts nothing
  const UseForecast* forecast_;
  int32_t layer_ = 0;
  int32_t n_tokens_ = 1;
  double horizon_ = 0;
  double arithmetic_ = 1;              // corrects the believed share of arithmetic over reading
  std::vector<float> loads_;           // [n_experts]
  std::vector<int32_t> guessed_;       // [n_experts] of a layer
  std::vector<Candidate> guesses_;     // absent experts guessed for the next layers
  std::vector<Candidate> fills_;       // absent experts that were missed
  std::vector<Candidate> candidates_;  // of both, those that are worth more than they displace
  std::vector<double> until_routed_;   // [ahead + 2]
  ExpertKey weakest_;                  // of whom uses are known
  double weakest_uses_ = 0;
  std::vector<std::vector<SlotId>> protected_;  // [n_layers]
};

}  // namespace tandem
