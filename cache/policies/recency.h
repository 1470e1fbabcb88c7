// LRU, LRU that knows that layers come round in order, and no order at all.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/policies/expert_table.h"

namespace tandem {

// The expert whose layer used it longest ago leaves first. Within one layer all are used at the
// same moment; the lighter one counts as older.
class LeastRecentlyUsed final : public EvictionPolicy {
 public:
  LeastRecentlyUsed(const PolicyShape& shape, std::span<const double>) : last_(shape) {}

  void on_use(const LayerUse& use) override {
    for (size_t i = use.used.size(); i-- > 0;) {
      last_.at(use.layer, use.used[i]) = static_cast<double>(++clock_);
    }
  }
  double value(ExpertKey key) const override { return last_.at(key); }

 private:
  int64_t clock_ = 0;
  ExpertTable<double> last_;
};

// All are worth the same: with admission of better ones only, nobody ever leaves.
class FixedContents final : public EvictionPolicy {
 public:
  FixedContents(const PolicyShape&, std::span<const double>) {}
  void on_use(const LayerUse&) override {}
  double value(ExpertKey) const override { return 0; }
};

// Age is counted in visits of the expert's own layer that did not use it, so that an early layer is
// not older than a late one; among equals the one whose layer is farthest ahead leaves first, and
// within a layer the lighter one.
// The idea is that of layer-based LRU (arXiv 2509.02408) and Least-Stale (SpecMD, 2602.03921).
class LayerDistanceLru final : public EvictionPolicy {
 public:
  LayerDistanceLru(const PolicyShape& shape, std::span<const double>)
      : n_layers_(shape.n_layers),
        n_experts_(shape.n_experts),
        visits_(static_cast<size_t>(shape.n_layers)),
        last_(shape) {}

  void on_use(const LayerUse& use) override {
    now_ = use.layer.value;
    const int64_t visit = ++visits_[static_cast<size_t>(use.layer.value)];
    for (size_t i = 0; i < use.used.size(); ++i) {
      last_.at(use.layer, use.used[i]) = {visit, static_cast<int32_t>(i)};
    }
  }
  double value(ExpertKey key) const override {
    const Record& last = last_.at(key);
    const int64_t missed = visits_[static_cast<size_t>(key.layer.value)] - last.visit;
    const int32_t ahead = (key.layer.value - now_ + n_layers_ - 1) % n_layers_ + 1;
    return -(static_cast<double>(missed * (n_layers_ + 1) + ahead) +
             static_cast<double>(last.place) / n_experts_);
  }

 private:
  struct Record {
    int64_t visit = 0;  // that used it last; 0: none
    int32_t place = 0;  // among its experts, 0: the heaviest
  };
  int32_t n_layers_;
  int32_t n_experts_;
  int32_t now_ = 0;
  std::vector<int64_t> visits_;  // [n_layers]
  ExpertTable<Record> last_;
};

}  // namespace tandem
