// Moving averages: of gate scores (MRS), and of use at two rates, alone or weighed with what a miss
// costs.
#pragma once

#include <algorithm>
#include <vector>

#include "cache/check.h"
#include "cache/policies/expert_table.h"

namespace tandem {

// MRS, HybriMoE, arXiv 2504.05897 eq. 3: S <- alpha * TopP(s) + (1 - alpha) * S, where s are the
// gate's scores of all experts and TopP keeps the best p = 2 top_k. Alpha is 0.5 in the published
// code. Where a trace knows only the selected experts, the others' scores count as zero.
class MinusRecentScore final : public EvictionPolicy {
 public:
  MinusRecentScore(const PolicyShape& shape, std::span<const double> values)
      : alpha_(values[0]), kept_(values[1]), scores_(shape) {}

  void on_use(const LayerUse& use) override {
    const auto ranks = static_cast<int32_t>(kept_ * use.top_k);
    for (int32_t t = 0; t < use.n_tokens; ++t) {
      for (double& score : scores_.layer(use.layer)) score *= 1 - alpha_;
      for_ranks(use, t, ranks, [&](size_t at, ExpertId expert) {
        scores_.at(use.layer, expert) += alpha_ * static_cast<double>(use.scores[at]);
      });
    }
  }
  double value(ExpertKey key) const override { return scores_.at(key); }

 private:
  double alpha_;
  double kept_;
  ExpertTable<double> scores_;
};

// The rate of use, in uses per token, as a mix of a fast and a slow moving average. A prompt's
// tokens count one by one in their order, so that the end of the prompt weighs most. An expert that
// the gate ranks right behind the selection, up to twice top_k, counts as `near` uses; all are
// scaled so that a token's uses still add up to top_k.
class TwoRateUse final : public EvictionPolicy, public UseForecast {
 public:
  // values: fast, slow, mix, near, and 1 to weigh with the layer's cost; the last two may be left
  // out.
  TwoRateUse(const PolicyShape& shape, std::span<const double> values)
      : fast_(values[0]),
        slow_(values[1]),
        mix_(values[2]),
        near_(values.size() > 3 ? values[3] : 0),
        fast_uses_(shape),
        slow_uses_(shape),
        rates_(shape) {
    if (values.size() > 4 && values[4] > 0) {
      cost_.assign(shape.layer_cost.begin(), shape.layer_cost.end());
      TANDEM_CHECK(cost_.empty() || cost_.size() == static_cast<size_t>(shape.n_layers),
                   "%zu costs for %d layers", cost_.size(), shape.n_layers);
    }
  }

  void on_use(const LayerUse& use) override {
    const int32_t behind = near_ > 0 ? std::clamp(use.n_ranks - use.top_k, 0, use.top_k) : 0;
    const double whole = use.top_k / (use.top_k + near_ * behind);
    const std::span<double> fast = fast_uses_.layer(use.layer);
    const std::span<double> slow = slow_uses_.layer(use.layer);
    for (int32_t t = 0; t < use.n_tokens; ++t) {
      for (double& uses : fast) uses *= 1 - fast_;
      for (double& uses : slow) uses *= 1 - slow_;
      const size_t first = static_cast<size_t>(t) * static_cast<size_t>(use.n_ranks);
      for_ranks(use, t, use.top_k + behind, [&](size_t at, ExpertId expert) {
        const bool selected = at < first + static_cast<size_t>(use.top_k);
        const double part = selected ? whole : whole * near_;
        fast[static_cast<size_t>(expert.value)] += part * fast_;
        slow[static_cast<size_t>(expert.value)] += part * slow_;
      });
    }
    const std::span<double> rates = rates_.layer(use.layer);
    for (size_t e = 0; e < rates.size(); ++e) rates[e] = mix_ * fast[e] + (1 - mix_) * slow[e];
  }
  double value(ExpertKey key) const override {
    return cost_.empty() ? rate(key) : rate(key) * cost_[static_cast<size_t>(key.layer.value)];
  }
  const UseForecast* forecast() const override { return this; }
  double next(ExpertKey key) const override { return rate(key); }
  void next(LayerId layer, std::span<float> uses) const override {
    const std::span<const double> rates = rates_.layer(layer);
    for (size_t e = 0; e < rates.size(); ++e) uses[e] = static_cast<float>(rates[e]);
  }
  double rate(ExpertKey key) const override { return rates_.at(key); }
  std::span<const double> rates(LayerId layer) const { return rates_.layer(layer); }

 private:
  double fast_;
  double slow_;
  double mix_;
  double near_;
  std::vector<double> cost_;  // [n_layers] relative cost of a miss, or empty
  ExpertTable<double> fast_uses_;
  ExpertTable<double> slow_uses_;
  ExpertTable<double> rates_;
};

}  // namespace tandem
