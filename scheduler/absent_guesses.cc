#include "scheduler/absent_guesses.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr double kNewest = 0.005;  // weight of a layer

}  // namespace

AbsentGuesses::AbsentGuesses(int32_t n_layers, int32_t n_experts, int32_t max_ahead)
    : max_ahead_(max_ahead),
      guesses_(static_cast<size_t>(n_layers) * static_cast<size_t>(max_ahead)),
      averages_(static_cast<size_t>(max_ahead)),
      used_(static_cast<size_t>(n_experts)) {
  for (auto& made : guesses_) made.reserve(static_cast<size_t>(n_experts));
}

void AbsentGuesses::add(ExpertKey key, int32_t ahead, float load) {
  guesses(key.layer.value, ahead).push_back({key.expert, std::min(1.0F, load)});
}

void AbsentGuesses::observe(const RoutingDecision& routing) {
  used_.assign(used_.size(), false);
  for (const ExpertLoad& load : routing.loads) used_[static_cast<size_t>(load.expert.value)] = true;
  for (int32_t ahead = 1; ahead <= max_ahead_; ++ahead) {
    auto& made = guesses(routing.layer.value, ahead);
    if (made.empty()) continue;
    double promised = 0;
    double came = 0;
    for (const Guess& guess : made) {
      promised += guess.use;
      came += used_[static_cast<size_t>(guess.expert.value)] ? 1 : 0;
    }
    Average& average = averages_[static_cast<size_t>(ahead - 1)];
    average.promised += kNewest * (promised - average.promised);
    average.came += kNewest * (came - average.came);
    made.clear();
  }
}

double AbsentGuesses::share(int32_t ahead) const {
  const Average& average = averages_[static_cast<size_t>(ahead - 1)];
  return std::min(1.0, average.came / average.promised);
}

}  // namespace tandem
