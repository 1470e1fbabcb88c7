#include "scheduler/predictor.h"

#include <algorithm>
#include <array>

#include "scheduler/ladder_predictor.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, 8> kNames = {"none",        "previous-token", "hot-list",
                                                    "gate-reuse",  "ladder",         "pair-table",
                                                    "token-table", "draft-free"};
constexpr size_t kTables = 3;  // of these, the last ones
// Before anything is known: the recall of gate reuse that HOBBIT reports for one layer ahead is
// 0.96, ProMoE's for Qwen2-57B 0.67 (arXiv 2411.01433, 2410.22134).
constexpr double kFirstPrecision = 0.8;
constexpr std::array kHotRates{0.05, 0.005, 0.5};

PolicyShape policy_shape(int32_t n_layers, int32_t n_experts) {
  return {n_layers, n_experts, nullptr, {}};
}

}  // namespace

LookaheadPredictor::LookaheadPredictor(int32_t n_layers, int32_t n_experts, int32_t max_ahead)
    : n_layers_(n_layers),
      n_experts_(static_cast<size_t>(n_experts)),
      max_ahead_(max_ahead),
      guesses_(static_cast<size_t>(n_layers) * static_cast<size_t>(max_ahead)),
      precision_(static_cast<size_t>(max_ahead), Precision(kFirstPrecision)) {
  for (Guess& g : guesses_) g.loads.assign(static_cast<size_t>(n_experts), 0.0F);
}

void LookaheadPredictor::observe(const RoutingDecision& routing) {
  now_ = routing.layer.value;
  exact_ = routing.exact_ahead;
  for (int32_t ahead = 1; ahead <= max_ahead_; ++ahead) {
    Guess& made = guess(now_, ahead);
    if (!made.valid) continue;
    made.valid = false;
    if (made.n_tokens != routing.n_tokens) continue;
    float right = 0;
    for (const ExpertLoad& load : routing.loads) {
      right += std::min(made.loads[static_cast<size_t>(load.expert.value)],
                        static_cast<float>(load.count));
    }
    precision_[static_cast<size_t>(ahead - 1)].note(right, made.promised);
  }
  for (int32_t ahead = 1; ahead <= std::min(max_ahead_, routing.n_ahead); ++ahead) {
    fill(routing, ahead, &guess((now_ + ahead) % n_layers_, ahead));
  }
}

void LookaheadPredictor::fill(const RoutingDecision& routing, int32_t ahead, Guess* guess) const {
  std::fill(guess->loads.begin(), guess->loads.end(), 0.0F);
  guess->promised = 0;
  guess->n_tokens = routing.n_tokens;
  const auto tokens = static_cast<size_t>(routing.n_tokens);
  const auto at = static_cast<size_t>(ahead - 1);
  if (!routing.predicted_use.empty()) {
    const size_t n = tokens * n_experts_;
    const auto use = routing.predicted_use.subspan(at * n, n);
    for (size_t i = 0; i < n; ++i) guess->loads[i % n_experts_] += use[i];
    // Of a token's experts one of P(use) p comes true with p. Of several tokens' the smaller of
    // two sums does not say what came true.
    for (size_t i = 0; i < n && tokens == 1; ++i) guess->promised += use[i] * use[i];
    guess->valid = std::any_of(use.begin(), use.end(), [](float p) { return p > 0; });
  } else {
    const size_t n = tokens * static_cast<size_t>(routing.top_k);
    for (const ExpertId expert : routing.predicted.subspan(at * n, n)) {
      if (!expert.valid()) continue;
      guess->loads[static_cast<size_t>(expert.value)] += 1;
      guess->promised += 1;
    }
    guess->valid = guess->promised > 0;
  }
}

bool LookaheadPredictor::predict(int32_t ahead, std::span<float> loads) const {
  if (ahead < 1 || ahead > max_ahead_) return false;
  const Guess& made = guess((now_ + ahead) % n_layers_, ahead);
  if (!made.valid) return false;
  const double precise = precision_[static_cast<size_t>(ahead - 1)].value();
  const auto p = static_cast<float>(exact_ ? 1 : precise);
  for (size_t e = 0; e < loads.size(); ++e) loads[e] = made.loads[e] * p;
  return true;
}

PreviousTokenPredictor::PreviousTokenPredictor(int32_t n_layers, int32_t n_experts)
    : n_layers_(n_layers),
      n_experts_(static_cast<size_t>(n_experts)),
      last_(static_cast<size_t>(n_layers) * n_experts_, 0.0F) {}

void PreviousTokenPredictor::observe(const RoutingDecision& routing) {
  now_ = routing.layer.value;
  n_tokens_ = routing.n_tokens;
  const auto last = std::span(last_).subspan(static_cast<size_t>(now_) * n_experts_, n_experts_);
  int32_t right = 0;
  for (const ExpertLoad& load : routing.loads) {
    right += last[static_cast<size_t>(load.expert.value)] > 0 ? 1 : 0;
  }
  const auto guessed = std::count_if(last.begin(), last.end(), [](float x) { return x > 0; });
  precision_.note(right, static_cast<int32_t>(guessed));
  std::fill(last.begin(), last.end(), 0.0F);
  for (const ExpertLoad& load : routing.loads) {
    last[static_cast<size_t>(load.expert.value)] =
        static_cast<float>(load.count) / static_cast<float>(routing.n_tokens);
  }
}

bool PreviousTokenPredictor::predict(int32_t ahead, std::span<float> loads) const {
  const auto layer = static_cast<size_t>((now_ + ahead) % n_layers_);
  const auto scale = static_cast<float>(precision_.value() * n_tokens_);
  for (size_t e = 0; e < loads.size(); ++e) loads[e] = last_[layer * n_experts_ + e] * scale;
  return true;
}

HotListPredictor::HotListPredictor(int32_t n_layers, int32_t n_experts)
    : n_layers_(n_layers),
      n_experts_(n_experts),
      rates_(policy_shape(n_layers, n_experts), kHotRates) {}

void HotListPredictor::observe(const RoutingDecision& routing) {
  now_ = routing.layer.value;
  n_tokens_ = routing.n_tokens;
  rates_.on_use({routing.layer,
                 {},
                 routing.n_tokens,
                 routing.top_k,
                 routing.n_ranks,
                 routing.ranked,
                 routing.scores});
}

bool HotListPredictor::predict(int32_t ahead, std::span<float> loads) const {
  const LayerId layer{(now_ + ahead) % n_layers_};
  for (int32_t e = 0; e < n_experts_; ++e) {
    loads[static_cast<size_t>(e)] =
        static_cast<float>(rates_.value({layer, ExpertId{e}}) * n_tokens_);
  }
  return true;
}

std::unique_ptr<Predictor> make_predictor(std::string_view name, const PredictorShape& shape) {
  if (name == "previous-token") {
    return std::make_unique<PreviousTokenPredictor>(shape.n_layers, shape.n_experts);
  }
  if (name == "hot-list") {
    return std::make_unique<HotListPredictor>(shape.n_layers, shape.n_experts);
  }
  if (name == "gate-reuse" || needs_tables(name)) {
    return std::make_unique<LookaheadPredictor>(shape.n_layers, shape.n_experts, shape.max_ahead);
  }
  if (name == "ladder") return std::make_unique<LadderPredictor>(shape);
  return nullptr;
}

std::span<const std::string_view> predictor_names() { return kNames; }

bool needs_tables(std::string_view name) {
  const auto tables = std::span(kNames).last<kTables>();
  return std::find(tables.begin(), tables.end(), name) != tables.end();
}

}  // namespace tandem
