// Several predictors, the best first to believe: the lookahead, the previous token, nobody. All are
// scored on every token that is decoded, in the shadow of the one that is believed; where another
// does clearly better of late, it takes over, for each distance on its own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/predictor.h"

namespace tandem {

class LadderPredictor final : public Predictor {
 public:
  explicit LadderPredictor(const PredictorShape& shape);
  void observe(const RoutingDecision& routing) override;
  bool predict(int32_t ahead, std::span<float> loads) const override;

  // "lookahead", "previous-token", "none". Scores are shadow_score()'s; that of "none" is what
  // guesses must reach.
  std::vector<PredictorRung> rungs(int32_t ahead) const override;

 private:
  static constexpr size_t kPredictors = 2;  // and nobody
  struct Shadow {
    bool guessed = false;
    std::vector<float> loads;  // [n_experts]
  };
  struct Standing {
    std::array<double, kPredictors + 1> score;
    std::array<int64_t, kPredictors + 1> trusted{};
    size_t rung = 0;
  };
  size_t index(int32_t layer, int32_t ahead, size_t rung) const {
    return static_cast<size_t>(layer * max_ahead_ + ahead - 1) * kPredictors + rung;
  }
  void score(const RoutingDecision& routing);

  int32_t n_layers_;
  int32_t max_ahead_;
  int32_t now_ = 0;
  std::array<std::unique_ptr<Predictor>, kPredictors> predictors_;
  std::vector<Shadow> shadows_;  // [n_layers, max_ahead, predictors]: of this layer, made before it
  std::vector<Standing> standings_;  // [max_ahead]
};

// How good a guess of one token's experts was: the sum of 2 p u - p^2 over all experts, p being the
// loads that were guessed and u 1 for an expert that is used, divided by how many are. 1 for the
// truth, 0 for no guess, r^2 for guesses of recall r that say so; below 0 for those that are surer
// than they are right. Brier's score turned round, so that nobody's is 0.
double shadow_score(std::span<const float> guessed, std::span<const ExpertLoad> used);

}  // namespace tandem
