// Router logits for a bench that computes none: of a synthetic trace, whose tokens have a past and
// whose later layers are guessed as a lookahead does, or drawn anew for each layer.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "runtime/model/model_config.h"
#include "scheduler/trace.h"

namespace tandem {

class Routes {
 public:
  virtual ~Routes() = default;
  // The next layer's logits, and behind them those of the layers after it, as far as the span goes:
  // [n, n_experts].
  virtual void next(std::span<float> logits) = 0;
  // Starts again with the first token's first layer.
  virtual void rewind() {}
};

// scheduler/synthetic_trace.h with its default knobs; goes round after `tokens`.
class TraceRoutes final : public Routes {
 public:
  TraceRoutes(const ModelConfig& config, int32_t tokens);
  void next(std::span<float> logits) override;
  void rewind() override { at_ = 0; }

 private:
  Trace trace_;             // its weights are their logarithms
  int64_t at_ = 0;          // layers so far
  std::vector<float> low_;  // [n_experts] of experts that are not among the best
};

// Nothing is alike: a cache hits as seldom as it can, and every guess is a wrong one.
class RandomRoutes final : public Routes {
 public:
  RandomRoutes();
  void next(std::span<float> logits) override;

 private:
  std::vector<float> drawn_;
  size_t at_ = 0;
};

}  // namespace tandem
