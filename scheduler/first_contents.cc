#include "scheduler/first_contents.h"

#include <algorithm>
#include <vector>

namespace tandem {
namespace {

std::vector<ExpertKey> by_expert(const CacheShape& shape) {
  std::vector<ExpertKey> order;
  for (int32_t e = 0; e < shape.n_experts; ++e) {
    for (int32_t l = 0; l < shape.n_layers; ++l) order.push_back({LayerId{l}, ExpertId{e}});
  }
  return order;
}

void fill(const std::vector<ExpertKey>& order, ExpertCache* cache) {
  for (const ExpertKey key : order) {
    if (cache->find(key).valid()) continue;
    const ExpertCache::Offer offer = cache->offer(key.layer);
    if (!offer.free) continue;
    cache->insert(key, offer.slot);
    cache->set_pieces(offer.slot, cache->shape().pieces, 0);
  }
  cache->reset_stats();
}

}  // namespace

void fill_first(ExpertCache* cache) { fill(by_expert(cache->shape()), cache); }

void fill_most_used(const Trace& trace, std::span<const int32_t> rows, ExpertCache* cache) {
  const CacheShape& shape = cache->shape();
  std::vector<ExpertKey> order = by_expert(shape);
  std::vector<int64_t> uses(order.size());
  const auto index = [&](ExpertKey key) {
    return static_cast<size_t>(key.layer.value) * static_cast<size_t>(shape.n_experts) +
           static_cast<size_t>(key.expert.value);
  };
  for (const int32_t row : rows) {
    for (int32_t l = 0; l < shape.n_layers; ++l) {
      const auto ids = trace.ids_of(row, l);
      for (int32_t k = 0; k < trace.header.top_k; ++k) {
        const int16_t id = ids[static_cast<size_t>(k)];
        if (id >= 0) ++uses[index({LayerId{l}, ExpertId{id}})];
      }
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](ExpertKey a, ExpertKey b) { return uses[index(a)] > uses[index(b)]; });
  fill(order, cache);
}

}  // namespace tandem
