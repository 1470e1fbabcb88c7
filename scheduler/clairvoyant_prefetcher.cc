#include "scheduler/clairvoyant_prefetcher.h"

namespace tandem {

void ClairvoyantPrefetcher::prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) {
  filler_.open(plan, cache, exec.clocks());
  bool room = true;
  for (int32_t ahead = 1; ahead <= visits_ && room; ++ahead) {
    const Future::Visit next = future_.visit(ahead);
    for (size_t i = 0; i < next.used.size() && room; ++i) {
      room = bring({next.layer, next.used[i]}, ahead, &cache);
    }
  }
  filler_.close(&cache, &exec);
}

bool ClairvoyantPrefetcher::bring(ExpertKey key, int32_t ahead, ExpertCache* cache) {
  SlotId slot = cache->find(key);
  if (!slot.valid()) {
    if (!filler_.fits(key.layer)) return false;
    const ExpertCache::Offer offer = cache->offer(key.layer);
    if (!offer.slot.valid()) return true;
    if (!offer.free && future_.next_use(cache->occupant(offer.slot)) <= ahead) return true;
    filler_.start(key, offer, cache);
    slot = offer.slot;
  }
  while (cache->pieces(slot) < cache->shape().pieces) {
    if (!filler_.send(key, slot, cache)) return false;
  }
  return true;
}

}  // namespace tandem
