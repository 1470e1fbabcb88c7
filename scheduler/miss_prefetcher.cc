#include "scheduler/miss_prefetcher.h"

namespace tandem {

MissPrefetcher::MissPrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                               const ExpertCache& cache)
    : filler_(model, experts, cache, 0.5) {
  under_way_.reserve(static_cast<size_t>(cache.n_slots()));
  entered_.reserve(static_cast<size_t>(cache.shape().n_experts));
}

bool MissPrefetcher::finish(ExpertKey key, ExpertCache* cache) {
  const SlotId slot = cache->find(key);
  if (!slot.valid()) return true;  // has left again
  while (cache->pieces(slot) < cache->shape().pieces) {
    if (!filler_.send(key, slot, cache)) return false;
  }
  return true;
}

void MissPrefetcher::prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) {
  filler_.open(plan, cache, exec.clocks());
  std::erase_if(under_way_, [&](ExpertKey key) { return finish(key, &cache); });
  for (const PlannedExpert& expert : plan.experts) {
    const ExpertKey key{plan.layer(), expert.expert};
    if (!under_way_.empty() || !filler_.fits(key.layer)) break;
    if (cache.find(key).valid()) continue;
    const ExpertCache::Offer offer = cache.offer(key.layer);
    if (!offer.slot.valid()) break;
    filler_.start(key, offer, &cache);
    cache.protect(offer.slot, true);
    entered_.push_back(offer.slot);
    if (!finish(key, &cache)) under_way_.push_back(key);
  }
  for (const SlotId slot : entered_) cache.protect(slot, false);
  entered_.clear();
  filler_.close(&cache, &exec);
}

}  // namespace tandem
