#include "scheduler/hot_set.h"

#include <algorithm>
#include <cmath>

#include "cache/check.h"

namespace tandem {

HotSet hot_set_of(const ExpertCache& cache) {
  HotSet hot;
  hot.n_layers = cache.shape().n_layers;
  hot.n_experts = cache.shape().n_experts;
  for (int32_t l = 0; l < hot.n_layers; ++l) {
    const LayerId layer{l};
    std::vector<HotExpert>& experts = hot.layers.emplace_back();
    experts.reserve(static_cast<size_t>(hot.n_experts));
    for (int32_t e = 0; e < hot.n_experts; ++e) {
      const double value = cache.policy().value({layer, ExpertId{e}});
      TANDEM_CHECK(std::isfinite(value), "layer %d expert %d is worth %g", l, e, value);
      experts.push_back({ExpertId{e}, value});
    }
    const auto resident = [&](const HotExpert& one) {
      return cache.find({layer, one.expert}).valid();
    };
    std::stable_sort(experts.begin(), experts.end(), [&](const HotExpert& a, const HotExpert& b) {
      return a.value != b.value ? a.value > b.value : resident(a) && !resident(b);
    });
  }
  return hot;
}

}  // namespace tandem
