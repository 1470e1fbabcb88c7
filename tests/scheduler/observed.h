// What predictors see: the routing of one token, made up.
#pragma once

#include <vector>

#include "scheduler/predictor.h"
#include "scheduler/routing.h"

namespace tandem::test {

// One token through a layer of 8 experts, top 2, with what a lookahead says about the next layers.
struct Observed {
  std::vector<ExpertId> used;
  std::vector<ExpertId> predicted;
  std::vector<ExpertLoad> loads;
  std::vector<float> scores{0.6F, 0.4F};
  RoutingDecision decision;

  Observed(int layer, const std::vector<int>& experts, const std::vector<int>& ahead) {
    for (const int e : experts) {
      used.push_back(ExpertId{e});
      loads.push_back({ExpertId{e}, static_cast<int32_t>(loads.size()), 1});
    }
    for (const int e : ahead) predicted.push_back(ExpertId{e});
    decision.layer = LayerId{layer};
    decision.n_tokens = 1;
    decision.top_k = 2;
    decision.ids = used;
    decision.loads = loads;
    decision.n_ranks = 2;
    decision.ranked = used;
    decision.scores = scores;
    decision.n_ahead = static_cast<int32_t>(ahead.size() / 2);
    decision.predicted = predicted;
  }
  Observed(const Observed&) = delete;
  Observed& operator=(const Observed&) = delete;
};

inline std::vector<float> loads_of(const Predictor& predictor, int32_t ahead) {
  std::vector<float> loads(8, -1.0F);
  if (!predictor.predict(ahead, loads)) return {};
  return loads;
}

}  // namespace tandem::test
