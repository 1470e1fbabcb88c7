#include "scheduler/impact_prefetcher.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace tandem {
namespace {

constexpr std::array kRates{0.25, 0.01, 0.25, 0.4};
// That the link is behind; more makes no difference.
constexpr double kMostTokens = 100;
// Missed experts that wait for their turn.
constexpr size_t kMostFills = 4;
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
      waste_(settings.most_waste, n_layers_),
      filler_(model, experts, cache, settings.overrun, &waste_),
      absent_(n_layers_, n_experts_, settings.ahead),
      forecast_(cache.policy().forecast()),
      loads_(static_cast<size_t>(n_experts_)),
      guessed_(loads_.size()),
      protected_(static_cast<size_t>(n_layers_)) {
  for (const ExpertCost& expert : experts) costs_.push_back(model.layer(expert));
  if (forecast_ == nullptr) {
    const PolicyShape shape{n_layers_, n_experts_, nullptr, {}};
    own_rates_ = std::make_unique<TwoRateUse>(shape, kRates);
    forecast_ = own_rates_.get();
  }
  const size_t most = static_cast<size_t>(n_experts_) * static_cast<size_t>(settings.ahead);
  guesses_.reserve(most);
  fills_.reserve(kMostFills + static_cast<size_t>(settings.fills));
  candidates_.reserve(most + kMostFills);
  until_routed_.resize(static_cast<size_t>(settings.ahead) + 1);
  for (auto& slots : protected_) slots.reserve(2 * most);
}

void ImpactPrefetcher::observe(const RoutingDecision& routing, ExpertCache& cache) {
  filler_.observe(routing, cache);
  layer_ = routing.layer.value;
  n_tokens_ = routing.n_tokens;
  for (const SlotId slot : protected_[static_cast<size_t>(layer_)]) cache.protect(slot, false);
  protected_[static_cast<size_t>(layer_)].clear();
  if (!predictor_) return;
  predictor_->observe(routing);
  absent_.observe(routing);
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

// Where the lookahead does not reach, into the next token, the forecast has to do; it protects
// nobody.
void ImpactPrefetcher::guess(ExpertCache* cache) {
  guesses_.clear();
  if (!predictor_) return;
  for (int32_t ahead = 1; ahead <= settings_.ahead; ++ahead) {
    const LayerId layer{(layer_ + ahead) % n_layers_};
    const bool seen = predictor_->predict(ahead, loads_);
    if (seen || forecast_loads(layer)) guess_layer(layer, ahead, seen, cache);
  }
}

// False where nothing more than the rates of use is known.
bool ImpactPrefetcher::forecast_loads(LayerId layer) {
  if (n_tokens_ > 1 || own_rates_ != nullptr) return false;
  forecast_->next(layer, loads_);
  return true;
}

void ImpactPrefetcher::guess_layer(LayerId layer, int32_t ahead, bool sure, ExpertCache* cache) {
  const auto least = static_cast<float>(sure ? settings_.least_gain : kSureForecast);
  if (sure) absent_.begin(layer, ahead);
  // Few are guessed, here and there: they are listed without a branch for each.
  size_t n_guessed = 0;
  for (size_t e = 0; e < loads_.size(); ++e) {
    guessed_[n_guessed] = static_cast<int32_t>(e);
    n_guessed += loads_[e] >= least ? 1 : 0;
  }
  for (size_t i = 0; i < n_guessed; ++i) {
    const int32_t e = guessed_[i];
    guess_expert({layer, ExpertId{e}}, loads_[static_cast<size_t>(e)], ahead, sure, cache);
  }
}

void ImpactPrefetcher::guess_expert(ExpertKey key, float load, int32_t ahead, bool sure,
                                    ExpertCache* cache) {
  const SlotId slot = cache->find(key);
  if (slot.valid()) {
    if (sure) {
      cache->protect(slot, true);
      protected_[static_cast<size_t>(key.layer.value)].push_back(slot);
    }
    if (cache->pieces(slot) == cache->shape().pieces) return;
  }
  const bool known = sure && predictor_->exact();
  if (sure && !known) {
    absent_.add(key, ahead, load);
    load *= static_cast<float>(absent_.share(ahead));
  }
  if (load < settings_.least_guess) return;
  guesses_.push_back({key, ahead, std::min(1.0F, load), known, weight(key.layer, load)});
}

void ImpactPrefetcher::add_fills(const LayerPlan& plan, const ExpertCache& cache) {
  // Those of this layer from before are known better now, or have come by demand.
  std::erase_if(fills_, [&](const Candidate& fill) {
    const SlotId slot = cache.find(fill.key);
    return fill.key.layer == plan.layer() ||
           (slot.valid() && cache.pieces(slot) == cache.shape().pieces);
  });
  for (Candidate& fill : fills_) fill.gain = uses(fill.key, horizon_);
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.gain != b.gain ? a.gain > b.gain : a.key < b.key;
  };
  // The best of the new ones, and of all.
  const auto keep = [&](const Candidate& fill, size_t first, size_t most) {
    if (fills_.size() < first + most) {
      fills_.push_back(fill);
      return;
    }
    const auto begin = fills_.begin() + static_cast<std::ptrdiff_t>(first);
    const auto worst = std::max_element(begin, fills_.end(), better);
    if (worst != fills_.end() && better(fill, *worst)) *worst = fill;
  };
  const size_t before = fills_.size();
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.gpu == plan.pieces || expert.present == plan.pieces) continue;
    Candidate fill{{plan.layer(), expert.expert}};
    fill.gain = uses(fill.key, horizon_);
    keep(fill, before, static_cast<size_t>(settings_.fills));
  }
  while (fills_.size() > kMostFills) {
    std::iter_swap(std::max_element(fills_.begin(), fills_.end(), better), fills_.end() - 1);
    fills_.pop_back();
  }
}

// What an expert of the layer must be worth more than, because of whom it would displace; infinity
// where there is no slot for it.
double ImpactPrefetcher::least_worth(LayerId layer, const ExpertCache& cache) {
  const ExpertCache::Offer offer = cache.offer(layer);
  if (!offer.slot.valid()) return std::numeric_limits<double>::infinity();
  if (offer.free) return 0;
  if (const ExpertKey key = cache.occupant(offer.slot); key != weakest_) {
    weakest_ = key;
    weakest_uses_ = uses(key, horizon_);
  }
  return weakest_uses_ * (1 + settings_.hysteresis);
}

void ImpactPrefetcher::weigh(const ExpertCache& cache) {
  candidates_.clear();
  weakest_ = {};
  for (int32_t ahead = 1; ahead <= settings_.ahead; ++ahead) {
    until_routed_[static_cast<size_t>(ahead)] = filler_.until_routed(ahead);
  }
  for (const Candidate& guess : guesses_)
    weigh(guess, guess.now + std::max(0.0, horizon_ - 1) * forecast_->rate(guess.key), cache);
  for (const Candidate& fill : fills_) weigh(fill, fill.gain, cache);
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    if (a.known != b.known) return a.known;
    if (a.known && a.ahead != b.ahead) return a.ahead < b.ahead;
    return a.density != b.density ? a.density > b.density : a.key < b.key;
  });
}

// most: what it gains if it lands at once. Few gain more than they would displace, so that is asked
// first.
void ImpactPrefetcher::weigh(Candidate candidate, double most, const ExpertCache& cache) {
  const SlotId slot = cache.find(candidate.key);
  const double needed =
      slot.valid() || candidate.known
          ? 0
          : std::max(settings_.least_gain, least_worth(candidate.key.layer, cache));
  if (most < needed) return;
  const int32_t missing = cache.shape().pieces - (slot.valid() ? cache.pieces(slot) : 0);
  double in_time = 1;
  if (candidate.ahead > 0 && missing > 0) {
    const double left = until_routed_[static_cast<size_t>(candidate.ahead)];
    in_time = std::clamp(left / filler_.copy_us(candidate.key.layer, missing), 0.0, 1.0);
  }
  const double waits = filler_.tokens_until_landed(candidate.key.layer, missing);
  const double kept = std::max(0.0, horizon_ - waits);
  // Who is guessed for the next token has that use in `now`.
  const double more = candidate.ahead > 0 ? std::max(0.0, kept - 1) * forecast_->rate(candidate.key)
                                          : uses(candidate.key, kept);
  candidate.gain = candidate.now * in_time + more;
  if (candidate.gain < needed) return;
  double price = 0;
  if (!slot.valid() && !candidate.known) {
    const double forecast = forecast_->next(candidate.key);
    candidate.kind = WasteBudget::kind(candidate.ahead, candidate.use, forecast);
    price = waste_.price(candidate.kind);
    if (candidate.gain < needed + price) return;
  }
  candidate.density = (candidate.gain - price) / std::max(1, missing);
  candidates_.push_back(candidate);
}

// False when the window is full.
bool ImpactPrefetcher::bring(const Candidate& candidate, ExpertCache* cache) {
  SlotId slot = cache->find(candidate.key);
  if (!slot.valid()) {
    if (!filler_.fits(candidate.key.layer)) return false;
    // Others may have been brought since it was weighed.
    const ExpertCache::Offer offer = cache->offer(candidate.key.layer);
    if (!offer.slot.valid()) return true;
    const double worth = candidate.gain - waste_.price(candidate.kind);
    if (!candidate.known && worth <= least_worth(candidate.key.layer, *cache)) return true;
    filler_.start(candidate.key, offer, cache, candidate.kind);
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
  if (filler_.full()) return;
  weigh(cache);
  for (const Candidate& candidate : candidates_) {
    if (!bring(candidate, &cache)) break;
  }
  filler_.close(&cache, &exec);
}

}  // namespace tandem
