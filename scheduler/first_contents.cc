#include "scheduler/first_contents.h"

#include <algorithm>
#include <vector>

#include "cache/check.h"

namespace tandem {
namespace {

std::vector<ExpertKey> by_expert(const CacheShape& shape) {
  std::vector<ExpertKey> order;
  for (int32_t e = 0; e < shape.n_experts; ++e) {
    for (int32_t l = 0; l < shape.n_layers; ++l) order.push_back({LayerId{l}, ExpertId{e}});
  }
  return order;
}

int32_t free_slots(const ExpertCache& cache, int64_t slot_bytes) {
  int32_t count = 0;
  for (int32_t s = 0; s < cache.n_slots(); ++s) {
    const SlotId slot{s};
    const bool free = !cache.occupant(slot).layer.valid();
    count += free && cache.slot_bytes(slot) == slot_bytes ? 1 : 0;
  }
  return count;
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

void fill_cache(Contents contents, const ContentsSource& source, ExpertCache* cache) {
  switch (contents) {
    case Contents::kEmpty:
      return;
    case Contents::kFirst:
    case Contents::kEverything:
      return fill_first(cache);
    case Contents::kLayers:
      return fill_last_layers(cache);
    case Contents::kHot:
      return fill_most_used(*source.trace, source.rows, cache);
    case Contents::kSaved:
      return fill_saved(*source.saved, cache);
  }
}

void fill_first(ExpertCache* cache) { fill(by_expert(cache->shape()), cache); }

void fill_last_layers(ExpertCache* cache) {
  const CacheShape& shape = cache->shape();
  TANDEM_CHECK(shape.pool == PoolShape::kShared, "a layer's quota may hold no whole layer");
  for (int32_t l = shape.n_layers; l-- > 0;) {
    if (free_slots(*cache, shape.expert_bytes[static_cast<size_t>(l)]) < shape.n_experts) continue;
    std::vector<ExpertKey> layer;
    layer.reserve(static_cast<size_t>(shape.n_experts));
    for (int32_t e = 0; e < shape.n_experts; ++e) layer.push_back({LayerId{l}, ExpertId{e}});
    fill(layer, cache);
  }
}

void fill_saved(const HotSet& hot, ExpertCache* cache) {
  const CacheShape& shape = cache->shape();
  TANDEM_CHECK(hot.n_layers == shape.n_layers && hot.n_experts == shape.n_experts,
               "a hot set of %d x %d for %d x %d", hot.n_layers, hot.n_experts, shape.n_layers,
               shape.n_experts);
  struct Ranked {
    double value;
    size_t place;  // in its layer
    ExpertKey key;
  };
  std::vector<Ranked> ranked;
  for (size_t l = 0; l < hot.layers.size(); ++l) {
    const LayerId layer{static_cast<int32_t>(l)};
    for (size_t i = 0; i < hot.layers[l].size(); ++i) {
      ranked.push_back({hot.layers[l][i].value, i, {layer, hot.layers[l][i].expert}});
    }
  }
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    if (a.value != b.value) return a.value > b.value;
    return a.place != b.place ? a.place < b.place : a.key < b.key;
  });
  std::vector<ExpertKey> order;
  order.reserve(ranked.size());
  for (const Ranked& one : ranked) order.push_back(one.key);
  fill(order, cache);
}

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
