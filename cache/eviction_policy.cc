#include "cache/eviction_policy.h"

#include <algorithm>
#include <array>

#include "cache/policies/clairvoyant.h"
#include "cache/policies/frequency.h"
#include "cache/policies/learned.h"
#include "cache/policies/recency.h"
#include "cache/policies/scores.h"

namespace tandem {
namespace {

template <typename Policy>
std::unique_ptr<EvictionPolicy> make(const PolicyShape& shape, std::span<const double> values) {
  return std::make_unique<Policy>(shape, values);
}

constexpr PolicyParameter kHalfLife{"half_life", 256, 0, 1e9,
                                    "tokens in which a count loses half its weight; 0: never"};
constexpr PolicyParameter kFast{"fast", 0.25, 0, 1, "weight of the newest token, fast average"};
constexpr PolicyParameter kSlow{"slow", 0.01, 0, 1, "weight of the newest token, slow average"};
constexpr PolicyParameter kMix{"mix", 0.25, 0, 1, "share of the fast average"};

constexpr std::array kFrequency{kHalfLife};
constexpr std::array kMrs{
    PolicyParameter{"alpha", 0.5, 0, 1, "weight of the newest token"},
    PolicyParameter{"kept", 2, 1, 64, "scores that count, in multiples of top-k"}};
constexpr PolicyParameter kNear{"near", 0, 0, 1,
                                "use that an expert ranked right behind the selection counts for"};
constexpr std::array kTwoRate{kFast, kSlow, kMix, kNear};
constexpr std::array kCostAware{
    kFast, kSlow, kMix, kNear,
    PolicyParameter{"cost", 1, 0, 1, "weigh with a layer's miss cost: 0 or 1"}};
constexpr std::array kWindow{PolicyParameter{"window", 2, 0, 1e6, "tokens whose routing is known"},
                             kFast, kSlow, kMix, kNear};
constexpr std::array kLearned{
    kFast,
    kSlow,
    kMix,
    kNear,
    PolicyParameter{"step", 0.12, 0, 1, "share of a token's error that is learnt"},
    PolicyParameter{"reach", 3, 0.1, 1e6, "tokens over which later uses count less and less"}};

constexpr std::array kPolicies = {
    PolicyInfo{"belady", "farthest next use, on a known future", {}, true, make<Belady>},
    PolicyInfo{"cost-aware", "rate of use times what a miss of the layer costs", kCostAware, false,
               make<TwoRateUse>},
    PolicyInfo{"ewma", "rate of use, averaged at two speeds", kTwoRate, false, make<TwoRateUse>},
    PolicyInfo{"layer-lru", "missed visits of the own layer", {}, false, make<LayerDistanceLru>},
    PolicyInfo{"learned", "use forecast from the layers before, learnt while running", kLearned,
               false, make<LearnedUse>},
    PolicyInfo{"lfru", "frequency over age", kFrequency, false, make<LeastFrequentRecentlyUsed>},
    PolicyInfo{"lfu", "fewest uses, aged", kFrequency, false, make<LeastFrequentlyUsed>},
    PolicyInfo{"lru", "longest unused", {}, false, make<LeastRecentlyUsed>},
    PolicyInfo{"mrs", "HybriMoE's moving average of gate scores", kMrs, false,
               make<MinusRecentScore>},
    PolicyInfo{
        "static", "nobody, where only better ones are admitted", {}, false, make<FixedContents>},
    PolicyInfo{"windowed-belady", "farthest next use within a window, then rate of use", kWindow,
               true, make<WindowedBelady>},
};

}  // namespace

std::span<const PolicyInfo> eviction_policies() { return kPolicies; }

const PolicyInfo* find_eviction_policy(std::string_view name) {
  for (const PolicyInfo& policy : kPolicies) {
    if (policy.name == name) return &policy;
  }
  return nullptr;
}

std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name,
                                                     const PolicyShape& shape) {
  const PolicyInfo* policy = find_eviction_policy(name);
  if (policy == nullptr || (policy->needs_future && shape.future == nullptr)) return nullptr;
  std::vector<double> values;
  for (const PolicyParameter& parameter : policy->parameters) values.push_back(parameter.standard);
  return policy->make(shape, values);
}

std::vector<std::string_view> eviction_policy_names() {
  std::vector<std::string_view> names;
  names.reserve(kPolicies.size());
  for (const PolicyInfo& policy : kPolicies) names.push_back(policy.name);
  return names;
}

std::vector<std::string_view> causal_policy_names() {
  std::vector<std::string_view> names;
  for (const PolicyInfo& policy : kPolicies) {
    if (!policy.needs_future) names.push_back(policy.name);
  }
  return names;
}

}  // namespace tandem
