// The link's idle time between the copies of one layer and the routing of the next, and what
// becomes of the experts that are sent in it. What all prefetchers share.
// Owned by a prefetcher. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/cost_model.h"
#include "scheduler/executor.h"
#include "scheduler/prefetcher.h"
#include "scheduler/waste_budget.h"

namespace tandem {

class LinkFiller {
 public:
  // overrun: how far the last piece of a window may reach past its end, in pieces.
  // waste: is told of all that is sent and what came of it; may be null.
  LinkFiller(const CostModel& model, const std::vector<ExpertCost>& experts,
             const ExpertCache& cache, double overrun, WasteBudget* waste = nullptr);

  // The layer's routing is known: notes whom it wants that a transfer has displaced.
  void observe(const RoutingDecision& routing, const ExpertCache& cache);

  // Between open() and close() pieces are sent one after the other.
  void open(const LayerPlan& plan, const ExpertCache& cache, const Clocks& now);
  // How long until the layer `ahead` layers after this one is routed, as far as is known.
  double until_routed(int32_t ahead) const;
  // How long the expert's missing pieces would take from now on, were it the only one.
  double copy_us(LayerId layer, int32_t missing) const;
  // Tokens until so many pieces would have landed behind all transfers that were begun, were the
  // link as idle as it was of late; infinity before a first token has shown that.
  double tokens_until_landed(LayerId layer, int32_t missing) const;
  // Tokens of the link's idle time that it would take to bring what a token missed of late, which
  // is what the CPU computed; infinity before a first token.
  double tokens_of_misses() const;
  // Whether the window has room for one more piece of this layer's experts.
  bool fits(LayerId layer) const;
  // Whether it has room for no layer's.
  bool full() const;
  // Gives the expert its slot. `offer` is the cache's; kind: for the waste budget.
  void start(ExpertKey key, const ExpertCache::Offer& offer, ExpertCache* cache,
             WasteBudget::Kind kind = WasteBudget::kCertain);
  // Sends the next piece of an expert with a slot; false when the window is full.
  bool send(ExpertKey key, SlotId slot, ExpertCache* cache);
  void close(ExpertCache* cache, Executor* exec);

  const TransferStats& stats() const { return stats_; }

 private:
  // A transfer whose expert has not been used yet.
  struct Transfer {
    ExpertKey key;  // invalid: none
    ExpertKey displaced;
    int64_t bytes = 0;
    int32_t missing = 0;  // pieces not sent yet
    WasteBudget::Kind kind = WasteBudget::kCertain;
    double sent = 0;      // in experts of mean size,
    double expected = 0;  // and what of it was expected to be for nothing
  };
  Transfer& transfer(SlotId slot) { return transfers_[static_cast<size_t>(slot.value)]; }
  size_t index(ExpertKey key) const {
    return static_cast<size_t>(key.layer.value) * n_experts_ +
           static_cast<size_t>(key.expert.value);
  }
  void settle(const LayerPlan& plan);
  void note_demand(const LayerPlan& plan);
  void note_token(size_t layer, double idle_us, double missed_us);
  void forget(Transfer* transfer);
  void lose(SlotId slot);
  double believed_us(LayerId layer, int32_t pieces) const {
    return pieces * piece_us_[static_cast<size_t>(layer.value)];
  }
  double piece_end(double from, LayerId layer) const;

  double slow_ratio_;    // link time beside a busy CPU over link time alone
  CostFactors factors_;  // of the current plan
  double overrun_;
  std::vector<double> piece_us_;      // [n_layers] believed
  std::vector<int64_t> piece_bytes_;  // [n_layers]
  std::vector<double> piece_size_;    // [n_layers] in experts of mean size
  std::vector<LayerId> sizes_;        // a layer for each size of a piece
  int32_t pieces_;
  size_t n_experts_;
  std::vector<double> idle_us_;    // [n_layers] of the window after the layer
  std::vector<double> missed_us_;  // [n_layers] to copy what the layer missed
  double token_idle_us_ = 0;       // sums of both; 0 before all layers are known
  double token_missed_us_ = 0;
  double begun_us_ = 0;               // what the transfers under way still need, as believed
  std::vector<double> gap_us_;        // [n_layers] from the end of the layer before to the routing
  std::vector<double> layer_us_;      // [n_layers] from routing to end
  std::vector<Transfer> transfers_;   // by slot
  std::vector<SlotId> displaced_by_;  // [n_layers * n_experts] the transfer that took its slot

  int32_t layer_ = 0;
  double last_end_ = -1;
  double at_ = 0;
  double cpu_until_ = 0;
  double deadline_ = 0;
  std::vector<CopySlice> slices_;
  std::vector<ModelTime> landed_;
  TransferStats stats_;
  WasteBudget* waste_;
};

}  // namespace tandem
