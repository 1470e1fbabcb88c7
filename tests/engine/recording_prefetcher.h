// Notes every layer's routing of every step; prefetches nothing.
#pragma once

#include <vector>

#include "scheduler/prefetcher.h"

namespace tandem::test {

class RecordingPrefetcher final : public Prefetcher {
 public:
  void observe(const RoutingDecision& routing, ExpertCache&) override {
    std::vector<std::vector<int32_t>> tokens;
    for (int32_t t = 0; t < routing.n_tokens; ++t) {
      std::vector<int32_t> ids;
      for (int32_t k = 0; k < routing.top_k; ++k) {
        ids.push_back(routing.ids[static_cast<size_t>(t * routing.top_k + k)].value);
      }
      tokens.push_back(ids);
    }
    layers.push_back(tokens);
  }
  void prefetch(const LayerPlan&, ExpertCache&, Executor&) override {}
  TransferStats stats() const override { return {}; }

  std::vector<std::vector<std::vector<int32_t>>> layers;  // [layer][token][rank]
};

}  // namespace tandem::test
