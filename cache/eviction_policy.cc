#include "cache/eviction_policy.h"

#include "cache/policies/frequency.h"
#include "cache/policies/recency.h"

namespace tandem {
namespace {

struct Registration {
  std::string_view name;
  std::unique_ptr<EvictionPolicy> (*make)(const CacheShape& shape);
};

template <typename Policy>
std::unique_ptr<EvictionPolicy> make(const CacheShape& shape) {
  return std::make_unique<Policy>(shape);
}

constexpr Registration kRegistry[] = {
    {"lfu", make<LeastFrequentlyUsed>},
    {"lru", make<LeastRecentlyUsed>},
};

}  // namespace

std::vector<std::string_view> eviction_policy_names() {
  std::vector<std::string_view> names;
  for (const Registration& entry : kRegistry) names.push_back(entry.name);
  return names;
}

std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name,
                                                     const CacheShape& shape) {
  for (const Registration& entry : kRegistry) {
    if (entry.name == name) return entry.make(shape);
  }
  return nullptr;
}

}  // namespace tandem
