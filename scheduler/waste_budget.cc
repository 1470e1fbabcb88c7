#include "scheduler/waste_budget.h"

#include <algorithm>
#include <cmath>

namespace tandem {
namespace {

constexpr int32_t kDistances = 5;  // 0: just missed; farther ones count as the last
constexpr int32_t kUses = 8;       // equal parts of the probabilities
constexpr int32_t kForecasts = 8;  // halvings of the forecast
// Just missed experts that are used before they lose their slots, before any has been seen.
constexpr double kFillPrior = 0.6;
constexpr double kPriorWeight = 4;  // experts
constexpr double kKept = 0.995;     // of what has been seen, each token
// Of what is owed is forgiven with each token. Where nothing is demanded and no kind is used often
// enough to earn anything, a debt would end all transfers for good.
constexpr double kForgiven = 0.01;
constexpr double kUnitsPerLayer = 0.02;

}  // namespace

WasteBudget::WasteBudget(double most, int32_t n_layers)
    : most_(most),
      unit_(kUnitsPerLayer * n_layers),
      tallies_(size_t{1} + kDistances * kUses * kForecasts) {
  tallies_[kCertain].prior = 1;
  for (size_t i = 1; i < tallies_.size(); ++i) {
    const size_t part = (i - 1) / kForecasts;
    const double use = (static_cast<double>(part % kUses) + 0.5) / kUses;
    tallies_[i].prior = part < kUses ? kFillPrior : use;
  }
}

WasteBudget::Kind WasteBudget::kind(int32_t ahead, double use, double forecast) {
  const int32_t distance = std::min(ahead, kDistances - 1);
  const auto part = ahead == 0 ? 0 : std::clamp(static_cast<int32_t>(use * kUses), 0, kUses - 1);
  const int32_t halvings = forecast > 0 ? std::ilogb(forecast) + kForecasts : 0;
  return 1 + (distance * kUses + part) * kForecasts + std::clamp(halvings, 0, kForecasts - 1);
}

// What is under way counts as not used yet. Who is used is so soon and who is not is known late, so
// counting only what has turned out would promise too much as long as little has.
double WasteBudget::used_share(Kind kind) const {
  const Tally& tally = tallies_[static_cast<size_t>(kind)];
  return (tally.used + kPriorWeight * tally.prior) / (tally.sent + kPriorWeight);
}

double WasteBudget::price(Kind kind) const {
  if (level_ >= 0 || most_ >= 1) return 0;
  return -level_ / unit_ * std::max(0.0, 1 - used_share(kind) - most_);
}

void WasteBudget::token() {
  if (level_ < 0) level_ *= 1 - kForgiven;
  for (Tally& tally : tallies_) {
    tally.sent *= kKept;
    tally.used *= kKept;
  }
}

void WasteBudget::add(double experts) { level_ = std::min(level_ + experts, unit_); }

void WasteBudget::demand(double experts) { add(most_ * experts); }

double WasteBudget::send(Kind kind, double experts) {
  const double expected = (1 - used_share(kind)) * experts;
  tallies_[static_cast<size_t>(kind)].sent += experts;
  add(most_ * experts - expected);
  return expected;
}

void WasteBudget::used(Kind kind, double experts, double expected) {
  tallies_[static_cast<size_t>(kind)].used += experts;
  add(expected);
}

void WasteBudget::wasted(double experts, double expected) { add(expected - experts); }

}  // namespace tandem
