// Moving averages: of gate scores (MRS), and of use at two rates, alone or weighed with what a miss
// costs.
#pragma once

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
// tokens count one by one in their order, so that the end of the prompt weighs most.
class TwoRateUse final : public EvictionPolicy {
 public:
  TwoRateUse(const PolicyShape& shape, std::span<const double> values)
      : fast_(values[0]), slow_(values[1]), mix_(values[2]), rates_(shape) {
    if (values.size() > 3 && values[3] > 0) {
      cost_.assign(shape.layer_cost.begin(), shape.layer_cost.end());
      TANDEM_CHECK(cost_.empty() || cost_.size() == static_cast<size_t>(shape.n_layers),
                   "%zu costs for %d layers", cost_.size(), shape.n_layers);
    }
  }

  void on_use(const LayerUse& use) override {
    for (int32_t t = 0; t < use.n_tokens; ++t) {
      for (Record& record : rates_.layer(use.layer)) {
        record.fast *= 1 - fast_;
        record.slow *= 1 - slow_;
      }
      for_ranks(use, t, use.top_k, [&](size_t, ExpertId expert) {
        Record& record = rates_.at(use.layer, expert);
        record.fast += fast_;
        record.slow += slow_;
      });
    }
  }
  double value(ExpertKey key) const override {
    const Record& record = rates_.at(key);
    const double rate = mix_ * record.fast + (1 - mix_) * record.slow;
    return cost_.empty() ? rate : rate * cost_[static_cast<size_t>(key.layer.value)];
  }

 private:
  struct Record {
    double fast = 0;
    double slow = 0;
  };
  double fast_;
  double slow_;
  double mix_;
  std::vector<double> cost_;  // [n_layers] relative cost of a miss, or empty
  ExpertTable<Record> rates_;
};

}  // namespace tandem
