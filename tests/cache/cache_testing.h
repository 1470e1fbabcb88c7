// Shorthand for cache tests: accesses in one line, and whole caches by policy name.
#pragma once

#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "cache/expert_cache.h"

namespace tandem::test {

inline std::vector<ExpertId> experts(const std::vector<int>& ids) {
  std::vector<ExpertId> out;
  for (const int id : ids) out.push_back(ExpertId{id});
  return out;
}

inline ExpertKey key(int layer, int expert) { return {LayerId{layer}, ExpertId{expert}}; }

inline ExpertCache make_cache(const CacheShape& shape, std::string_view policy = "lru") {
  return ExpertCache(shape, make_eviction_policy(policy, shape));
}

// Commits and returns the slots that the incoming experts got.
inline std::vector<SlotId> commit(ExpertCache& cache, int layer, const std::vector<ExpertId>& used,
                                  const std::vector<ExpertId>& incoming) {
  const std::vector<ModelTime> ready(incoming.size(), 0.0);
  std::vector<SlotId> slots(incoming.size());
  cache.commit({LayerId{layer}, used, incoming, slots, ready});
  return slots;
}

inline std::vector<SlotId> commit(ExpertCache& cache, int layer, std::initializer_list<int> used,
                                  std::initializer_list<int> incoming) {
  return commit(cache, layer, experts(used), experts(incoming));
}

// A demand cache: absent experts come in, heaviest first, as far as there is room beside the rest.
inline void serve(ExpertCache& cache, int layer, const std::vector<ExpertId>& used) {
  std::vector<ExpertId> incoming;
  const int32_t room = cache.room_beside(LayerId{layer}, used);
  for (const ExpertId expert : used) {
    if (static_cast<int32_t>(incoming.size()) == room) break;
    if (!cache.find({LayerId{layer}, expert}).valid()) incoming.push_back(expert);
  }
  commit(cache, layer, used, incoming);
}

inline void serve(ExpertCache& cache, int layer, std::initializer_list<int> used) {
  serve(cache, layer, experts(used));
}

}  // namespace tandem::test
