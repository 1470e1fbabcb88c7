#include "scheduler/ladder_predictor.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr std::array<std::string_view, 3> kRungNames{"lookahead", "previous-token", "none"};
// A lookahead of recall 0.7 that says so, before anything is known of it.
constexpr double kFirstScore = 0.5;
// Of a guess with a recall of a fifth: less is not worth acting on.
constexpr double kLeastScore = 0.04;
// Of one visit of a layer: some tokens of a model with 30 layers.
constexpr double kRate = 1.0 / 256;
// What another rung must be better by. Both ways, so that near ties do not change hands.
constexpr double kMargin = 0.03;

}  // namespace

double shadow_score(std::span<const float> guessed, std::span<const ExpertLoad> used) {
  double score = 0;
  for (const float p : guessed) score -= static_cast<double>(p) * static_cast<double>(p);
  for (const ExpertLoad& load : used) {
    score += 2 * static_cast<double>(guessed[static_cast<size_t>(load.expert.value)]);
  }
  return used.empty() ? 0 : score / static_cast<double>(used.size());
}

LadderPredictor::LadderPredictor(const PredictorShape& shape)
    : n_layers_(shape.n_layers),
      max_ahead_(shape.max_ahead),
      predictors_{
          std::make_unique<LookaheadPredictor>(shape.n_layers, shape.n_experts, shape.max_ahead),
          std::make_unique<PreviousTokenPredictor>(shape.n_layers, shape.n_experts)},
      shadows_(static_cast<size_t>(n_layers_ * max_ahead_) * kPredictors),
      standings_(static_cast<size_t>(max_ahead_), Standing{{kFirstScore, 0, kLeastScore}}) {
  for (Shadow& s : shadows_) s.loads.assign(static_cast<size_t>(shape.n_experts), 0.0F);
}

void LadderPredictor::observe(const RoutingDecision& routing) {
  now_ = routing.layer.value;
  if (routing.n_tokens == 1) score(routing);
  for (const auto& predictor : predictors_) predictor->observe(routing);
  for (int32_t ahead = 1; ahead <= max_ahead_; ++ahead) {
    const int32_t layer = (now_ + ahead) % n_layers_;
    for (size_t rung = 0; rung < kPredictors; ++rung) {
      Shadow& s = shadows_[index(layer, ahead, rung)];
      s.guessed = predictors_[rung]->predict(ahead, s.loads);
    }
  }
}

// Where the lookahead reaches no further, nobody is judged.
void LadderPredictor::score(const RoutingDecision& routing) {
  for (int32_t ahead = 1; ahead <= max_ahead_; ++ahead) {
    if (!shadows_[index(now_, ahead, 0)].guessed) continue;
    Standing& standing = standings_[static_cast<size_t>(ahead - 1)];
    ++standing.trusted[standing.rung];
    for (size_t rung = 0; rung < kPredictors; ++rung) {
      const Shadow& s = shadows_[index(now_, ahead, rung)];
      const double now = s.guessed ? shadow_score(s.loads, routing.loads) : 0;
      standing.score[rung] += kRate * (now - standing.score[rung]);
    }
    const auto best = std::max_element(standing.score.begin(), standing.score.end());
    if (*best > standing.score[standing.rung] + kMargin) {
      standing.rung = static_cast<size_t>(best - standing.score.begin());
    }
  }
}

bool LadderPredictor::predict(int32_t ahead, std::span<float> loads) const {
  if (ahead < 1 || ahead > max_ahead_) return false;
  const size_t rung = standings_[static_cast<size_t>(ahead - 1)].rung;
  if (rung == kPredictors) return false;
  const Shadow& s = shadows_[index((now_ + ahead) % n_layers_, ahead, rung)];
  if (s.guessed) std::copy(s.loads.begin(), s.loads.end(), loads.begin());
  return s.guessed;
}

std::vector<PredictorRung> LadderPredictor::rungs(int32_t ahead) const {
  if (ahead < 1 || ahead > max_ahead_) return {};
  const Standing& standing = standings_[static_cast<size_t>(ahead - 1)];
  std::vector<PredictorRung> all;
  all.reserve(kRungNames.size());
  for (size_t i = 0; i < kRungNames.size(); ++i) {
    all.push_back({kRungNames[i], standing.score[i], standing.trusted[i], i == standing.rung});
  }
  return all;
}

}  // namespace tandem
