#include "cache/policies/learned.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cache/wide.h"

namespace tandem {
namespace {

constexpr double kTrustRate = 0.02;  // weight of the newest token
// Whoever has not been used for long may still be; values stay apart from nothing.
constexpr double kLeast = 1e-4;

void add_row(const float* row, std::span<float> to) {
  for (size_t e = 0; e < to.size(); ++e) to[e] += row[e];
}

// The same, four at a time where there are four: they come from a farther cache, so all at once.
TANDEM_WIDE void add_rows(std::span<const float* const> rows, std::span<float> to) {
  if (rows.size() != 4) {
    for (const float* row : rows) add_row(row, to);
    return;
  }
  const float* a = rows[0];
  const float* b = rows[1];
  const float* c = rows[2];
  const float* d = rows[3];
  for (size_t e = 0; e < to.size(); ++e) to[e] = to[e] + a[e] + b[e] + c[e] + d[e];
}

double next_use(double rate, float trust, float sum) {
  return std::clamp(rate + static_cast<double>(trust * sum), kLeast, 1.0);
}

// Of the next token, and `later` times the rate.
TANDEM_WIDE void expect_uses(std::span<const double> rates, float trust,
                             std::span<const float> sums, double later, std::span<float> uses) {
  for (size_t e = 0; e < uses.size(); ++e) {
    uses[e] = static_cast<float>(next_use(rates[e], trust, sums[e]) + later * rates[e]);
  }
}

}  // namespace

LearnedUse::LearnedUse(const PolicyShape& shape, std::span<const double> values)
    : n_layers_(shape.n_layers),
      n_experts_(static_cast<size_t>(shape.n_experts)),
      step_(static_cast<float>(values[4])),
      rates_(shape, values.first(4)),
      sources_(static_cast<size_t>(shape.n_layers)),
      targets_(static_cast<size_t>(shape.n_layers)),
      sums_(static_cast<size_t>(shape.n_layers) * n_experts_),
      last_(static_cast<size_t>(shape.n_layers)),
      trust_(static_cast<size_t>(shape.n_layers)),
      error_(n_experts_),
      step_tokens_(static_cast<size_t>(kTokens) * static_cast<size_t>(shape.n_layers)) {
  choose_sources();
  reordered_.reserve(static_cast<size_t>(n_layers_));
  const double reach = values[5];
  for (int32_t i = 0; i < 2 * n_layers_; ++i) {
    fading_.push_back(std::exp(-static_cast<double>(i % n_layers_ + 1) / n_layers_ / reach));
  }
  later_ = 1 / std::expm1(1 / reach);
}

void LearnedUse::choose_sources() {
  const size_t block = n_experts_ * n_experts_;
  const size_t most = kMostWeights / block / static_cast<size_t>(n_layers_);
  size_t weights = 0;
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    std::vector<Source>& sources = sources_[static_cast<size_t>(layer)];
    const auto add = [&](int32_t from) {
      if (sources.size() == most) return;
      sources.push_back({from, weights});
      targets_[static_cast<size_t>(from)].push_back({layer, sources.back()});
      weights += block;
    };
    add(layer);
    if (layer >= kGap) add(0);
  }
  weights_.resize(weights);
}

void LearnedUse::on_use(const LayerUse& use) {
  now_ = use.layer.value;
  reordered_.clear();
  note(use);
  const int32_t kept = std::min(use.n_tokens, kTokens);
  if (use.n_tokens == 1) {
    visit(now_, step_tokens_[static_cast<size_t>(now_)]);
    for (const Target& target : targets_[static_cast<size_t>(now_)]) {
      reordered_.push_back(LayerId{target.layer});
    }
  } else if (now_ == n_layers_ - 1) {
    for (int32_t i = 0; i < kept * n_layers_; ++i) {
      visit(i % n_layers_, step_tokens_[static_cast<size_t>(i)]);
    }
    for (int32_t layer = 0; layer < n_layers_; ++layer) reordered_.push_back(LayerId{layer});
  }
  rates_.on_use(use);
}

void LearnedUse::note(const LayerUse& use) {
  const int32_t kept = std::min(use.n_tokens, kTokens);
  for (int32_t t = 0; t < kept; ++t) {
    const size_t token = static_cast<size_t>(t) * static_cast<size_t>(n_layers_);
    Selection& selection = step_tokens_[token + static_cast<size_t>(now_)];
    selection.clear();
    for_ranks(use, use.n_tokens - kept + t, use.top_k,
              [&](size_t, ExpertId expert) { selection.add(expert); });
  }
}

// Asks for what learn() will change when the layer's turn comes. With many experts the weights are
// larger than the core's own caches.
void LearnedUse::fetch_rows(int32_t layer) const {
  constexpr size_t kLine = 64 / sizeof(float);
  for (const Source& source : sources_[static_cast<size_t>(layer)]) {
    for (const int16_t i : last_[static_cast<size_t>(source.layer)].inputs()) {
      const float* row = &weights_[source.weights + static_cast<size_t>(i) * n_experts_];
      for (size_t e = 0; e < n_experts_; e += kLine) __builtin_prefetch(row + e, 1);
    }
  }
}

// One token has passed a layer: what had been said of it is learnt from, then it speaks itself.
void LearnedUse::visit(int32_t layer, const Selection& selection) {
  learn(layer, selection);
  last_[static_cast<size_t>(layer)] = selection;
  std::fill(sum_of(layer).begin(), sum_of(layer).end(), 0.0F);
  for (const Target& target : targets_[static_cast<size_t>(layer)]) {
    const std::span<const int16_t> inputs = selection.inputs();
    std::array<const float*, kInputs> rows{};
    for (size_t i = 0; i < inputs.size(); ++i) {
      rows[i] = &weights_[target.source.weights + static_cast<size_t>(inputs[i]) * n_experts_];
    }
    add_rows(std::span(rows).first(inputs.size()), sum_of(target.layer));
  }
  fetch_rows((layer + 1) % n_layers_);
}

void LearnedUse::learn(int32_t layer, const Selection& selection) {
  const std::vector<Source>& sources = sources_[static_cast<size_t>(layer)];
  size_t active = 0;
  for (const Source& source : sources) {
    active += last_[static_cast<size_t>(source.layer)].inputs().size();
  }
  if (active == 0 || selection.ids().empty()) return;
  const std::span<const float> sum = sum_of(layer);
  const std::span<const double> rates = rates_.rates(LayerId{layer});
  for (size_t e = 0; e < n_experts_; ++e) error_[e] = -static_cast<float>(rates[e]);
  for (const int16_t id : selection.ids()) error_[static_cast<size_t>(id)] += 1;
  update_trust(&trust_[static_cast<size_t>(layer)], sum);
  const float step = step_ / static_cast<float>(active);
  for (size_t e = 0; e < n_experts_; ++e) error_[e] = step * (error_[e] - sum[e]);
  for (const Source& source : sources) {
    for (const int16_t i : last_[static_cast<size_t>(source.layer)].inputs()) {
      const size_t row = source.weights + static_cast<size_t>(i) * n_experts_;
      add_row(error_.data(), std::span(weights_).subspan(row, n_experts_));
    }
  }
}

// error_ is what the rate left to explain.
void LearnedUse::update_trust(Trust* trust, std::span<const float> sum) {
  float agreed = 0;
  float square = 0;
  for (size_t e = 0; e < n_experts_; ++e) {
    agreed += error_[e] * sum[e];
    square += sum[e] * sum[e];
  }
  trust->agreed += kTrustRate * (static_cast<double>(agreed) - trust->agreed);
  trust->square += kTrustRate * (static_cast<double>(square) - trust->square);
  const double value = trust->square > 0 ? trust->agreed / trust->square : 0;
  trust->value = static_cast<float>(std::clamp(value, 0.0, 1.0));
}

double LearnedUse::next(ExpertKey key) const {
  const auto layer = static_cast<size_t>(key.layer.value);
  const float sum = sums_[layer * n_experts_ + static_cast<size_t>(key.expert.value)];
  return next_use(rate(key), trust_[layer].value, sum);
}

void LearnedUse::next(LayerId layer, std::span<float> uses) const {
  expect_uses(rates_.rates(layer), trust_[static_cast<size_t>(layer.value)].value,
              sums_of(layer.value), 0, uses);
}

double LearnedUse::value(ExpertKey key) const {
  return weights()[static_cast<size_t>(key.layer.value)] * static_cast<double>(standing(key));
}

std::span<const double> LearnedUse::weights() const {
  const auto last = static_cast<size_t>(n_layers_ - 1);
  return std::span(fading_).subspan(last - static_cast<size_t>(now_), last + 1);
}

void LearnedUse::standings(LayerId layer, std::span<float> standings) const {
  expect_uses(rates_.rates(layer), trust_[static_cast<size_t>(layer.value)].value,
              sums_of(layer.value), later_, standings);
}

}  // namespace tandem
