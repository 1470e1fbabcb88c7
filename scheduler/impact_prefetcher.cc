#include "scheduler/impact_prefetcher.h"

#include <algorithm>
#include <array>
#include <utility>

namespace tandem {
namespace {

constexpr std::array kRates{0.25, 0.01, 0.25, 0.4};
// That the link is behind; more makes no difference.
constexpr double kMostTokens = 100;
// Missed experts that wait for their turn.
constexpr size_t kMostFills = 32;
// Less likely guesses cost more, by pieces that are in the way of what is asked for, than they
// bring.
constexpr float kLeastGuess = 0.15F;
// A forecast that is worth acting on where no lookahead confirms it; lower ones are mere rates.
constexpr float kSureForecast = 0.2F;

}  // namespace

ImpactPrefetcher::ImpactPrefetcher(const CostModel& model, const std::vector<ExpertCost>& experts,
                                   const ExpertCache& cache, std::unique_ptr<Predictor> predictor,
                                   const PrefetchSettings& settings)
    : settings_(settings),
      n_layers_(cache.shape().n_layers),
      n_experts_(cache.shape().n_experts),
      predictor_(std::move(predictor)),
      filler_(model, experts, cache, settings.overrun),
      forecast_(cache.policy().forecast()),
      loads_(static_cast<size_t>(n_experts_)),
      protected_(static_cast<size_t>(n_layers_)) {
  for (const ExpertCost& expert : experts) costs_.push_back(model.layer(expert));
  if (forecast_ == nullptr) {
    const PolicyShape shape{n_layers_, n_experts_, nullptr, {}};
    own_rates_ = std::make_unique<TwoRateUse>(shape, kRates);
    forecast_ = own_rates_.get();
  }
  const size_t most = static_cast<size_t>(n_experts_) * static_cast<size_t>(settings.ahead + 1);
  guesses_.reserve(most);
  fills_.reserve(kMostFills + static_cast<size_t>(n_experts_));
  candidates_.reserve(most + kMostFills);
  for (auto& slots : protected_) slots.reserve(2 * most);
}

void ImpactPrefetcher::observe(const RoutingDecision& routing, ExpertCache& cache) {
  filler_.observe(routing, cache);
  layer_ = routing.layer.value;
  n_tokens_ = routing.n_tokens;
  for (const SlotId slot : protected_[static_cast<size_t>(layer_)]) cache.protect(slot, false);
  protected_[static_cast<size_t>(layer_)].clear();
  if (predictor_) predictor_->observe(routing);
}

// Expected uses by so many tokens from now on.
double ImpactPrefetcher::uses(ExpertKey key, double tokens) const {
  const double next = forecast_->next(key) * std::clamp(tokens, 0.0, 1.0);
  return next + std::max(0.0, tokens - 1) * forecast_->rate(key);
}

// A token's use of an expert saves more where a batch makes it longer than reading its weights.
double ImpactPrefetcher::weight(LayerId layer, float load) const {
  const LayerCosts& cost = costs_[static_cast<size_t>(layer.value)];
  const double use = std::min(1.0F, load);
  return use * std::max(1.0, load * cost.cpu_token / cost.cpu_read * arithmetic_);
}

// Where the lookahead does not reach, into the next token and one layer farther, the forecast has
// to do; it protects nobody.
void ImpactPrefetcher::guess(ExpertCache* cache) {
  guesses_.clear();
  if (!predictor_) return;
  for (int32_t ahead = 1; ahead <= settings_.ahead + 1; ++ahead) {
    const LayerId layer{(layer_ + ahead) % n_layers_};
    const bool seen = ahead <= settings_.ahead && predictor_->predict(ahead, loads_);
    if (seen || forecast_loads(layer)) guess_layer(layer, ahead, seen, cache);
  }
}

// False where nothing more than the rates of use is known.
bool ImpactPrefetcher::forecast_loads(LayerId layer) {
  if (n_tokens_ > 1 || own_rates_ != nullptr) return false;
  for (int32_t e = 0; e < n_experts_; ++e) {
    loads_[static_cast<size_t>(e)] = static_cast<float>(forecast_->next({layer, ExpertId{e}}));
  }
  return true;
}

void ImpactPrefetcher::guess_layer(LayerId layer, int32_t ahead, bool sure, ExpertCache* cache) {
  const double least = sure ? settings_.least_gain : kSureForecast;
  for (int32_t e = 0; e < n_experts_; ++e) {
    const float load = loads_[static_cast<size_t>(e)];
    if (load < least) continue;
    const ExpertKey key{layer, ExpertId{e}};
    const SlotId slot = cache->find(key);
    if (slot.valid()) {
      if (sure) {
        cache->protect(slot, true);
        protected_[static_cast<size_t>(layer.value)].push_back(slot);
      }
      if (cache->pieces(slot) == cache->shape().pieces) continue;
    }
    if (load < kLeastGuess) continue;
    guesses_.push_back({key, weight(layer, load), 0, 0, ahead, sure && predictor_->exact()});
  }
}

void ImpactPrefetcher::add_fills(const LayerPlan& plan, const ExpertCache& cache) {
  // Those of this layer from before are known better now, or have come by demand.
  std::erase_if(fills_, [&](const Candidate& fill) {
    const SlotId slot = cache.find(fill.key);
    return fill.key.layer == plan.layer() ||
           (slot.valid() && cache.pieces(slot) == cache.shape().pieces);
  });
  const size_t before = fills_.size();
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.gpu == plan.pieces || expert.present == plan.pieces) continue;
    fills_.push_back({{plan.layer(), expert.expert}, 0, 0, 0, 0});
  }
  for (Candidate& fill : fills_) fill.gain = uses(fill.key, horizon_);
  const auto better = [&](const Candidate& a, const Candidate& b) {
    return a.gain != b.gain ? a.gain > b.gain : a.key < b.key;
  };
  std::sort(fills_.begin() + static_cast<std::ptrdiff_t>(before), fills_.end(), better);
  const size_t most = before + static_cast<size_t>(settings_.fills);
  if (fills_.size() > most) fills_.resize(most);
  if (fills_.size() > kMostFills) {
    std::sort(fills_.begin(), fills_.end(), better);
    fills_.resize(kMostFills);
  }
}

void ImpactPrefetcher::weigh(const ExpertCache& cache) {
  candidates_.assign(guesses_.begin(), guesses_.end());
  candidates_.insert(candidates_.end(), fills_.begin(), fills_.end());
  for (Candidate& candidate : candidates_) {
    const SlotId slot = cache.find(candidate.key);
    const int32_t missing = cache.shape().pieces - (slot.valid() ? cache.pieces(slot) : 0);
    double in_time = 1;
    if (candidate.ahead > 0 && missing > 0) {
      const double left = filler_.until_routed(candidate.ahead);
      in_time = std::clamp(left / filler_.copy_us(candidate.key.layer, missing), 0.0, 1.0);
    }
    const double waits = filler_.tokens_until_landed(candidate.key.layer, missing);
    const double kept = std::max(0.0, horizon_ - waits);
    // Who is guessed for the next token has that use in `now`.
    const double more = candidate.ahead > 0
                            ? std::max(0.0, kept - 1) * forecast_->rate(candidate.key)
                            : uses(candidate.key, kept);
    candidate.gain = candidate.now * in_time + more;
    candidate.density = candidate.gain / std::max(1, missing);
  }
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    if (a.known != b.known) return a.known;
    if (a.known && a.ahead != b.ahead) return a.ahead < b.ahead;
    return a.density != b.density ? a.density > b.density : a.key < b.key;
  });
}

// False when the window is full.
bool ImpactPrefetcher::bring(const Candidate& candidate, ExpertCache* cache) {
  SlotId slot = cache->find(candidate.key);
  if (!slot.valid()) {
    if (!filler_.fits(candidate.key.layer)) return false;
    if (candidate.gain < settings_.least_gain && !candidate.known) return true;
    const ExpertCache::Offer offer = cache->offer(candidate.key.layer);
    if (!offer.slot.valid()) return true;
    const double loss = offer.free ? 0 : uses(cache->occupant(offer.slot), horizon_);
    if (candidate.gain <= loss * (1 + settings_.hysteresis) && !candidate.known) return true;
    filler_.start(candidate.key, offer, cache);
    slot = offer.slot;
    if (candidate.ahead > 0) {
      cache->protect(slot, true);
      protected_[static_cast<size_t>(candidate.key.layer.value)].push_back(slot);
    }
  }
  while (cache->pieces(slot) < cache->shape().pieces) {
    if (!filler_.send(candidate.key, slot, cache)) return false;
  }
  return true;
}

void ImpactPrefetcher::prefetch(const LayerPlan& plan, ExpertCache& cache, Executor& exec) {
  if (own_rates_) own_rates_->on_use(plan.use);
  filler_.open(plan, cache, exec.clocks());
  arithmetic_ = plan.factors.cpu_token / plan.factors.cpu_read;
  // Who is displaced queues for the link behind all that is missed.
  horizon_ =
      settings_.horizon + settings_.patience * std::min(kMostTokens, filler_.tokens_of_misses());
  guess(&cache);
  add_fills(plan, cache);
  weigh(cache);
  for (const Candidate& candidate : candidates_) {
    if (!bring(candidate, &cache)) break;
  }
  filler_.close(&cache, &exec);
}

}  // namespace tandem
