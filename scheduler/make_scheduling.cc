#include "scheduler/make_scheduling.h"

#include <utility>

#include "cache/check.h"
#include "scheduler/clairvoyant_prefetcher.h"
#include "scheduler/hybrimoe_prefetcher.h"
#include "scheduler/impact_prefetcher.h"
#include "scheduler/miss_prefetcher.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

const PolicyInfo& policy_info(const SchedulingSettings& settings) {
  const PolicyInfo* info = find_eviction_policy(settings.policy);
  TANDEM_CHECK(info != nullptr, "no policy %s", settings.policy.c_str());
  return *info;
}

// Whether the prefetcher asks a predictor.
bool guesses(const SchedulingSettings& settings) {
  return settings.prefetcher == "impact" || settings.prefetcher == "hybrimoe";
}

}  // namespace

bool needs_future(const SchedulingSettings& settings) {
  return policy_info(settings).needs_future || settings.prefetcher == "clairvoyant";
}

bool needs_whole_future(const SchedulingSettings& settings) {
  return needs_future(settings) &&
         (settings.policy != "windowed-belady" || settings.prefetcher == "clairvoyant");
}

int32_t gate_reuse_distance(const SchedulingSettings& settings) {
  const bool reuses = settings.predictor == "gate-reuse" || settings.predictor == "ladder";
  return reuses && guesses(settings) ? settings.prefetch.ahead : 0;
}

int32_t lookahead_distance(const SchedulingSettings& settings) {
  const bool tables = needs_tables(settings.predictor) && guesses(settings);
  return tables ? settings.prefetch.ahead : gate_reuse_distance(settings);
}

std::unique_ptr<EvictionPolicy> make_policy(const SchedulingSettings& settings,
                                            const CacheShape& shape, const FutureUses* future) {
  const PolicyInfo& info = policy_info(settings);
  std::vector<double> cost;  // of a miss, by the bytes of a layer's experts
  cost.reserve(shape.expert_bytes.size());
  for (const int64_t bytes : shape.expert_bytes) {
    cost.push_back(static_cast<double>(bytes) / static_cast<double>(shape.expert_bytes.front()));
  }
  const PolicyShape policy_shape{shape.n_layers, shape.n_experts, future, cost};
  if (settings.policy_values.empty()) return make_eviction_policy(settings.policy, policy_shape);
  return info.make(policy_shape, settings.policy_values);
}

std::unique_ptr<Prefetcher> make_prefetcher(const SchedulingSettings& settings,
                                            const CostModel& model,
                                            const std::vector<ExpertCost>& experts,
                                            const ExpertCache& cache, const Future* future) {
  if (settings.prefetcher == "none") return std::make_unique<NoPrefetcher>();
  const CacheShape& shape = cache.shape();
  if (settings.prefetcher == "clairvoyant") {
    TANDEM_CHECK(future != nullptr, "%s", "the prefetcher clairvoyant needs a future");
    return std::make_unique<ClairvoyantPrefetcher>(model, experts, cache, *future);
  }
  if (settings.prefetcher == "missed") {
    return std::make_unique<MissPrefetcher>(model, experts, cache);
  }
  auto predictor = make_predictor(settings.predictor,
                                  {shape.n_layers, shape.n_experts, settings.prefetch.ahead});
  if (settings.prefetcher == "hybrimoe") {
    return std::make_unique<HybriMoePrefetcher>(model, experts, cache, std::move(predictor),
                                                settings.prefetch.ahead,
                                                settings.prefetch.per_layer);
  }
  TANDEM_CHECK(settings.prefetcher == "impact", "no prefetcher %s", settings.prefetcher.c_str());
  return std::make_unique<ImpactPrefetcher>(model, experts, cache, std::move(predictor),
                                            settings.prefetch);
}

}  // namespace tandem
