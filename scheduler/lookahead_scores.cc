#include "scheduler/lookahead_scores.h"

#include <algorithm>
#include <numeric>

namespace tandem {

LookaheadScores::LookaheadScores(int32_t n_layers, int32_t n_experts, int32_t top_k,
                                 int32_t n_distances)
    : n_layers_(n_layers),
      top_k_(top_k),
      n_distances_(n_distances),
      guesses_(static_cast<size_t>(n_layers) * static_cast<size_t>(n_distances)),
      sums_(guesses_.size()),
      by_use_(static_cast<size_t>(n_experts)),
      used_(by_use_.size()) {
  for (Guess& guess : guesses_) {
    guess.ids.resize(static_cast<size_t>(top_k));
    guess.use.resize(by_use_.size());
  }
}

void LookaheadScores::observe(const RoutingDecision& routing) {
  const int32_t layer = routing.layer.value;
  if (routing.n_tokens != 1) {  // what was guessed of this layer was of another step
    for (int32_t d = 1; d <= n_distances_; ++d) guesses_[index(layer, d)].valid = false;
    return;
  }
  std::fill(used_.begin(), used_.end(), uint8_t{0});
  for (const ExpertId id : routing.ids) {
    if (id.valid()) used_[static_cast<size_t>(id.value)] = 1;
  }
  for (int32_t d = 1; d <= n_distances_; ++d) {
    Guess& guess = guesses_[index(layer, d)];
    if (guess.valid && routing.ids.front().valid()) score(guess, &sums_[index(layer, d)]);
    guess.valid = false;
  }
  const auto k = static_cast<size_t>(top_k_);
  for (int32_t d = 1; d <= std::min(n_distances_, routing.n_ahead); ++d) {
    const auto ids = routing.predicted.subspan(static_cast<size_t>(d - 1) * k, k);
    // Farther ahead than a token has layers, a guess would be replaced before it is scored.
    if (d > n_layers_ || !ids.front().valid()) continue;
    Guess& guess = guesses_[index((layer + d) % n_layers_, d)];
    guess.valid = true;
    std::copy(ids.begin(), ids.end(), guess.ids.begin());
    guess.calibrated = !routing.predicted_use.empty();
    if (!guess.calibrated) continue;
    const size_t n = guess.use.size();
    const auto use = routing.predicted_use.subspan(static_cast<size_t>(d - 1) * n, n);
    std::copy(use.begin(), use.end(), guess.use.begin());
  }
}

// A trace's tokens may have used fewer than top_k experts, and guesses may be fewer.
void LookaheadScores::score(const Guess& guess, Sums* sums) {
  const auto used = [&](ExpertId id) {
    return id.valid() && used_[static_cast<size_t>(id.value)] != 0;
  };
  const auto right = std::count_if(guess.ids.begin(), guess.ids.end(), used);
  const auto n_used = std::count(used_.begin(), used_.end(), uint8_t{1});
  const auto k = static_cast<double>(n_used);
  ++sums->tokens;
  sums->right += static_cast<double>(right) / k;
  sums->exact += right == n_used ? 1 : 0;
  if (!guess.calibrated) return;
  ++sums->calibrated;
  double squares = 0;
  for (size_t e = 0; e < used_.size(); ++e) {
    const double miss = static_cast<double>(guess.use[e]) - used_[e];
    squares += miss * miss;
  }
  sums->brier += squares / static_cast<double>(used_.size());
  const int32_t wide = std::min(2 * top_k_, static_cast<int32_t>(by_use_.size()));
  std::iota(by_use_.begin(), by_use_.end(), 0);
  std::nth_element(by_use_.begin(), by_use_.begin() + wide - 1, by_use_.end(),
                   [&](int32_t a, int32_t b) {
                     return guess.use[static_cast<size_t>(a)] > guess.use[static_cast<size_t>(b)];
                   });
  const auto right_wide = std::count_if(by_use_.begin(), by_use_.begin() + wide, [&](int32_t e) {
    return used_[static_cast<size_t>(e)] != 0;
  });
  sums->right_wide += static_cast<double>(right_wide) / k;
}

LookaheadScore LookaheadScores::score_of(const Sums& sums) const {
  LookaheadScore score{sums.tokens, sums.calibrated};
  const auto n = static_cast<double>(std::max<int64_t>(1, sums.tokens));
  const auto calibrated = static_cast<double>(std::max<int64_t>(1, sums.calibrated));
  score.recall = sums.right / n;
  score.exact = sums.exact / n;
  score.recall_wide = sums.right_wide / calibrated;
  score.brier = sums.brier / calibrated;
  return score;
}

LookaheadScore LookaheadScores::of(int32_t layer, int32_t distance) const {
  return score_of(sums_[index(layer, distance)]);
}

LookaheadScore LookaheadScores::sum_of(int32_t first, int32_t end, int32_t distance) const {
  Sums all;
  for (int32_t layer = first; layer < std::min(end, n_layers_); ++layer) {
    const Sums& s = sums_[index(layer, distance)];
    all.tokens += s.tokens;
    all.calibrated += s.calibrated;
    all.right += s.right;
    all.exact += s.exact;
    all.right_wide += s.right_wide;
    all.brier += s.brier;
  }
  return score_of(all);
}

}  // namespace tandem
