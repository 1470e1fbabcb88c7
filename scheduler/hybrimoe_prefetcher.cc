#include "scheduler/hybrimoe_prefetcher.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tandem {

HybriMoePrefetcher::HybriMoePrefetcher(const CostModel& model,
                                       const std::vector<ExpertCost>& experts,
                                       const ExpertCache& cache,
                                       std::unique_ptr<Predictor> predictor, int32_t ahead,
                                       int32_t per_layer)
    : n_layers_(cache.shape().n_layers),
      n_experts_(cache.shape().n_experts),
      ahead_(ahead),
      per_layer_(per_layer),
      predictor_(std::move(predictor)),
      filler_(model, experts, cache, 0.5),
      loads_(static_cast<size_t>(n_experts_)),
      protected_(static_cast<size_t>(n_layers_)) {
  for (const ExpertCost& expert : experts) costs_.push_back(model.layer(expert));
  guessed_.reserve(static_cast<size_t>(n_experts_));
}

void HybriMoePrefetcher::observe(const RoutingDecision& routing, ExpertCache& cache) {
  filler_.observe(routing, cache);
  layer_ = routing.layer.value;
  for (const SlotId slot : protected_[static_cast<size_t>(layer_)]) cache.protect(slot, false);
  protected_[static_cast<size_t>(layer_)].clear();
  std::erase_if(under_way_, [&](ExpertKey key) { return key.layer == routing.layer; });
  predictor_->observe(routing);
}

void HybriMoePrefetcher::protect(SlotId slot, LayerId layer, ExpertCache* cache) {
  cache->protect(slot, true);
  protected_[static_cast<size_t>(layer.value)].push_back(slot);
}

double HybriMoePrefetcher::makespan(LayerId layer) {
  problem_.cost = costs_[static_cast<size_t>(layer.value)];
  problem_.now = {};
  place_hybrimoe(&problem_, &scratch_);
  const Clocks end = layer_end(&problem_);
  return std::max(end.cpu, end.gpu);
}

// Of equal loads one stands for all, so a layer needs few simulations.
HybriMoePrefetcher::Choice HybriMoePrefetcher::best(const ExpertCache& cache) {
  Choice best;
  for (int32_t ahead = 1; ahead <= ahead_; ++ahead) {
    if (!predictor_->predict(ahead, loads_)) continue;
    const LayerId layer{(layer_ + ahead) % n_layers_};
    guessed_.clear();
    for (int32_t e = 0; e < n_experts_; ++e) {
      if (loads_[static_cast<size_t>(e)] > 0) guessed_.push_back(ExpertId{e});
    }
    std::sort(guessed_.begin(), guessed_.end(), [&](ExpertId a, ExpertId b) {
      const float x = loads_[static_cast<size_t>(a.value)];
      const float y = loads_[static_cast<size_t>(b.value)];
      return x != y ? x > y : a < b;
    });
    problem_.items.clear();
    problem_.room = n_experts_;
    for (const ExpertId expert : guessed_) {
      const SlotId slot = cache.find({layer, expert});
      const float load = loads_[static_cast<size_t>(expert.value)];
      const auto count = static_cast<int32_t>(std::max(1L, std::lround(load)));
      problem_.items.push_back({count, slot.valid() ? cache.pieces(slot) : 0, 0, 0});
    }
    const double without = makespan(layer);
    int32_t tried = 0;
    for (size_t i = 0; i < guessed_.size(); ++i) {
      LayerItem& item = problem_.items[i];
      const int32_t present = item.present;
      if (present == cache.shape().pieces || item.count == tried) continue;
      tried = item.count;
      if (filler_.copy_us(layer, cache.shape().pieces - present) > filler_.until_routed(ahead)) {
        continue;
      }
      item.present = cache.shape().pieces;
      const double gain = without - makespan(layer);
      item.present = present;
      if (gain > best.gain) best = {{layer, guessed_[i]}, gain, ahead};
    }
  }
  return best;
}

void HybriMoePrefetcher::prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) {
  filler_.open(plan, cache, exec.clocks());
  for (int32_t ahead = 1; ahead <= ahead_; ++ahead) {
    if (!predictor_->predict(ahead, loads_)) continue;
    const LayerId layer{(layer_ + ahead) % n_layers_};
    for (const SlotId slot : cache.slots_of(layer)) {
      if (loads_[static_cast<size_t>(cache.occupant(slot).expert.value)] > 0) {
        protect(slot, layer, &cache);
      }
    }
  }
  // What was begun goes on first.
  const auto finish = [&](ExpertKey key) {
    const SlotId slot = cache.find(key);
    if (!slot.valid()) return true;
    while (cache.pieces(slot) < cache.shape().pieces) {
      if (!filler_.send(key, slot, &cache)) return false;
    }
    return true;
  };
  std::erase_if(under_way_, finish);
  for (int32_t n = 0; n < per_layer_ && under_way_.empty(); ++n) {
    const Choice choice = best(cache);
    if (choice.gain <= 0 || !filler_.fits(choice.key.layer)) break;
    SlotId slot = cache.find(choice.key);
    if (!slot.valid()) {
      const ExpertCache::Offer offer = cache.offer(choice.key.layer);
      if (!offer.slot.valid()) break;
      filler_.start(choice.key, offer, &cache);
      slot = offer.slot;
      protect(slot, choice.key.layer, &cache);
    }
    if (!finish(choice.key)) under_way_.push_back(choice.key);
  }
  filler_.close(&cache, &exec);
}

}  // namespace tandem
