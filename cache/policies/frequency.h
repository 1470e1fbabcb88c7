// Counts of use: LFU that ages, and LFRU.
#pragma once

#include <cmath>

#include "cache/policies/expert_table.h"

namespace tandem {

// By how much a use fades in so many tokens.
class Ageing {
 public:
  explicit Ageing(double half_life) : decay_(half_life > 0 ? std::exp2(-1 / half_life) : 1.0) {}
  double over(int32_t tokens) const {
    return decay_ == 1.0 ? 1.0 : tokens == 1 ? decay_ : std::pow(decay_, tokens);
  }

 private:
  double decay_;
};

// The expert with the fewest uses leaves first; among equals the one used longest ago. A count
// loses half its weight in half_life tokens: one that never ages collapses when the subject
// changes. Tokens of a prompt count and age one by one, however the prompt is cut into steps.
class LeastFrequentlyUsed final : public EvictionPolicy {
 public:
  LeastFrequentlyUsed(const PolicyShape& shape, std::span<const double> values)
      : ageing_(values[0]), tie_break_(values[0] > 0 ? 1e-12 : 1e-9), uses_(shape) {}

  void on_use(const LayerUse& use) override {
    const double decay = ageing_.over(use.n_tokens);
    for (Record& record : uses_.layer(use.layer)) record.count *= decay;
    for (int32_t t = 0; t < use.n_tokens; ++t) {
      const double weight = ageing_.over(use.n_tokens - 1 - t);
      for_ranks(use, t, use.top_k,
                [&](size_t, ExpertId expert) { uses_.at(use.layer, expert).count += weight; });
    }
    // Within one layer the lighter one counts as older.
    for (size_t i = use.used.size(); i-- > 0;) uses_.at(use.layer, use.used[i]).last = ++clock_;
  }
  double value(ExpertKey key) const override {
    const Record& record = uses_.at(key);
    return record.count + record.last * tie_break_;
  }

 private:
  struct Record {
    double count = 0;
    double last = 0;
  };
  Ageing ageing_;
  // Of one use. Whole counts stay apart for 1e9 uses of any experts and tell their ties apart up
  // to 4e6; aged counts hardly tie, and must not be outweighed.
  double tie_break_;
  double clock_ = 0;
  ExpertTable<Record> uses_;
};

// LFRU: frequency over age. Age is the number of visits of the expert's layer since its last use,
// plus one. The frequency ages like LFU's.
class LeastFrequentRecentlyUsed final : public EvictionPolicy {
 public:
  LeastFrequentRecentlyUsed(const PolicyShape& shape, std::span<const double> values)
      : ageing_(values[0]), uses_(shape) {}

  void on_use(const LayerUse& use) override {
    const double decay = ageing_.over(use.n_tokens);
    for (Record& record : uses_.layer(use.layer)) {
      record.count *= decay;
      record.age += 1;
    }
    for (int32_t t = 0; t < use.n_tokens; ++t) {
      const double weight = ageing_.over(use.n_tokens - 1 - t);
      for_ranks(use, t, use.top_k, [&](size_t, ExpertId expert) {
        Record& record = uses_.at(use.layer, expert);
        record.count += weight;
        record.age = 0;
      });
    }
  }
  double value(ExpertKey key) const override {
    const Record& record = uses_.at(key);
    return record.count / (record.age + 1);
  }

 private:
  struct Record {
    double count = 0;
    double age = 0;
  };
  Ageing ageing_;
  ExpertTable<Record> uses_;
};

}  // namespace tandem
