// Belady's rule on a known future (IBM Systems Journal 5, 1966): the expert whose next use is
// farthest away leaves first. With the whole trace known it is the bound that no policy beats on
// demand fetches; with a window it is what lookahead over known tokens allows.
#pragma once

#include <cmath>

#include "cache/policies/scores.h"

namespace tandem {

class Belady final : public EvictionPolicy {
 public:
  Belady(const PolicyShape& shape, std::span<const double>) : future_(*shape.future) {}
  void on_use(const LayerUse&) override {}
  double value(ExpertKey key) const override { return -future_.next_use(key); }
  std::span<const LayerId> reordered() const override { return future_.reordered(); }

 private:
  const FutureUses& future_;
};

// Knows the next `window` whole tokens: as many visits of each layer. What is not used in them is
// ranked by its rate of use, below everything that is.
class WindowedBelady final : public EvictionPolicy {
 public:
  WindowedBelady(const PolicyShape& shape, std::span<const double> values)
      : future_(*shape.future),
        window_(std::floor(values[0]) * shape.n_layers),
        rate_(shape, values.subspan(1)) {}
  void on_use(const LayerUse& use) override { rate_.on_use(use); }
  double value(ExpertKey key) const override {
    const double next = future_.next_use(key);
    return next <= window_ ? 2 + 1 / (1 + next) : rate_.value(key);
  }
  std::span<const LayerId> reordered() const override { return future_.reordered(); }

 private:
  const FutureUses& future_;
  double window_;  // layer visits
  TwoRateUse rate_;
};

}  // namespace tandem
