// Shorthand for cache tests: routings that own their memory, a future that is searched, accesses
// in one line, and whole caches by policy name.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cache/expert_cache.h"

namespace tandem::test {

inline std::vector<ExpertId> experts(const std::vector<int>& ids) {
  std::vector<ExpertId> out;
  out.reserve(ids.size());
  for (const int id : ids) out.push_back(ExpertId{id});
  return out;
}

inline ExpertKey key(int layer, int expert) { return {LayerId{layer}, ExpertId{expert}}; }

// Slots of one size, 100 bytes, in one piece.
inline CacheShape shape_of(int layers, int n_experts, int slots,
                           PoolShape pool = PoolShape::kShared) {
  return {layers,
          n_experts,
          1,
          std::vector<int64_t>(static_cast<size_t>(layers), 100),
          int64_t{100} * slots,
          pool};
}

// One layer's routing in one step.
struct Routing {
  int layer = 0;
  int n_tokens = 1;
  int top_k = 0;
  int n_ranks = 0;
  std::vector<ExpertId> used;    // distinct, heaviest first
  std::vector<ExpertId> ranked;  // [n_tokens, n_ranks]
  std::vector<float> scores;     // the same shape

  LayerUse use() const { return {LayerId{layer}, used, n_tokens, top_k, n_ranks, ranked, scores}; }
};

// One token that selects these experts, heaviest first.
inline Routing routing(int layer, const std::vector<ExpertId>& used) {
  const int k = static_cast<int>(used.size());
  Routing r{layer, 1, k, k, used, used, {}};
  for (int i = 0; i < k; ++i) r.scores.push_back(1.0F / static_cast<float>(i + 2));
  return r;
}

// Any number of tokens; each ranks twice its top-k, and some of the ranks behind that are unknown.
inline Routing draw_routing(std::mt19937& random, int layer, int n_experts, int n_tokens,
                            int top_k) {
  Routing r{layer, n_tokens, top_k, std::min(2 * top_k + 1, n_experts), {}, {}, {}};
  std::vector<ExpertId> all(static_cast<size_t>(n_experts));
  for (int e = 0; e < n_experts; ++e) all[static_cast<size_t>(e)].value = e;
  std::vector<std::pair<double, ExpertId>> heaviness(all.size());
  for (const ExpertId e : all) heaviness[static_cast<size_t>(e.value)].second = e;
  for (int t = 0; t < n_tokens; ++t) {
    std::shuffle(all.begin(), all.end(), random);
    std::vector<float> scores(static_cast<size_t>(r.n_ranks));
    for (float& score : scores) {
      score = std::uniform_real_distribution<float>(0.01F, 1.0F)(random);
    }
    std::sort(scores.rbegin(), scores.rend());
    for (int i = 0; i < r.n_ranks; ++i) {
      const ExpertId expert = all[static_cast<size_t>(i)];
      const float score = scores[static_cast<size_t>(i)];
      const bool known = i < top_k || random() % 4 != 0;
      r.ranked.push_back(known ? expert : ExpertId{});
      r.scores.push_back(score);
      if (i < top_k) heaviness[static_cast<size_t>(expert.value)].first += score;
    }
  }
  std::sort(heaviness.rbegin(), heaviness.rend());
  for (const auto& [weight, expert] : heaviness) {
    if (weight > 0) r.used.push_back(expert);
  }
  return r;
}

// A known trace. The policy asks about what comes after event `now`.
class KnownFuture final : public FutureUses {
 public:
  explicit KnownFuture(const std::vector<Routing>& events) : events_(events) {}
  void move_to(size_t now) { now_ = now; }
  double next_use(ExpertKey key) const override {
    for (size_t t = now_ + 1; t < events_.size(); ++t) {
      const auto& used = events_[t].used;
      if (LayerId{events_[t].layer} == key.layer &&
          std::find(used.begin(), used.end(), key.expert) != used.end()) {
        return static_cast<double>(t - now_);
      }
    }
    return std::numeric_limits<double>::infinity();
  }

 private:
  const std::vector<Routing>& events_;
  size_t now_ = 0;
};

// A policy by name with parameters of one's own; none: the standard ones.
struct Choice {
  std::string policy;
  std::vector<double> values{};
  std::vector<double> layer_cost{};
};

inline std::unique_ptr<EvictionPolicy> make_policy(const Choice& choice, int layers, int n_experts,
                                                   const FutureUses* future = nullptr) {
  const PolicyShape shape{layers, n_experts, future, choice.layer_cost};
  if (choice.values.empty()) return make_eviction_policy(choice.policy, shape);
  return find_eviction_policy(choice.policy)->make(shape, choice.values);
}

inline ExpertCache make_cache(const CacheShape& shape, const Choice& choice = {"lru"},
                              const FutureUses* future = nullptr) {
  return ExpertCache(shape, make_policy(choice, shape.n_layers, shape.n_experts, future));
}

// Commits and returns the slots that the incoming experts got.
inline std::vector<SlotId> commit(ExpertCache& cache, const Routing& routing,
                                  const std::vector<ExpertId>& incoming) {
  std::vector<SlotId> slots(incoming.size());
  cache.commit({routing.use(), incoming, slots});
  return slots;
}

// All incoming experts come in whole.
inline std::vector<SlotId> commit(ExpertCache& cache, int layer, std::initializer_list<int> used,
                                  std::initializer_list<int> incoming) {
  auto slots = commit(cache, routing(layer, experts(used)), experts(incoming));
  for (const SlotId slot : slots) cache.set_pieces(slot, cache.shape().pieces, 0);
  return slots;
}

// Forced admission: absent experts come in whole, heaviest first, as far as there is room beside
// those that are there.
inline void serve(ExpertCache& cache, const Routing& routing) {
  std::vector<ExpertId> incoming;
  const int32_t room = cache.room_beside(LayerId{routing.layer}, routing.used);
  for (const ExpertId expert : routing.used) {
    if (static_cast<int32_t>(incoming.size()) == room) break;
    if (!cache.find({LayerId{routing.layer}, expert}).valid()) incoming.push_back(expert);
  }
  for (const SlotId slot : commit(cache, routing, incoming)) {
    cache.set_pieces(slot, cache.shape().pieces, 0);
  }
}

inline void serve(ExpertCache& cache, int layer, std::initializer_list<int> used) {
  serve(cache, routing(layer, experts(used)));
}

// An expert comes in between accesses, as a prefetcher brings it. Its slot, if it was offered one.
inline SlotId bring(ExpertCache& cache, ExpertKey key, bool demand = false) {
  const ExpertCache::Offer offer = cache.offer(key.layer, demand);
  if (offer.slot.valid()) cache.insert(key, offer.slot);
  return offer.slot;
}

// What serving the whole trace costs.
inline CacheStats replay(const std::vector<Routing>& trace, const CacheShape& shape,
                         const Choice& choice) {
  KnownFuture future(trace);
  ExpertCache cache = make_cache(shape, choice, &future);
  for (size_t t = 0; t < trace.size(); ++t) {
    future.move_to(t);
    serve(cache, trace[t]);
  }
  return cache.stats();
}

}  // namespace tandem::test
