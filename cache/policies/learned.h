// A forecast of use that learns while the model runs, from routing alone: which experts a layer
// will use shows in those that certain other layers have just used, in this token and in the one
// before. Nothing is trained in advance. What it is worth is in README.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/policies/scores.h"

namespace tandem {

// For expert e of layer t
//   next(e) = rate(e) + trust(t) * sum over sources s of t, experts i that s used last, W[t,s](i,e)
// where rate is TwoRateUse's. W follows each token's error by normalised least mean squares (Widrow
// and Hoff 1960; Nagumo and Noda, IEEE Trans. Automatic Control 12, 1967). trust is the regression
// of what was left to explain on what the sum said, so that sums that explain nothing are not
// heard.
//
// Sources of a layer: itself in the token before, and layer 0 in this token where it is kGap layers
// away or more (nearer ones are what a lookahead is for). Fewer where the weights would grow past
// kMostWeights. Of each the kInputs heaviest experts are looked at.
//
// Of a step of several tokens the last kTokens are learnt from, one by one, when all layers are
// known.
class LearnedUse final : public EvictionPolicy, public UseForecast, public LayeredValues {
 public:
  static constexpr int32_t kGap = 4;
  static constexpr int32_t kTokens = 32;
  static constexpr size_t kInputs = 4;
  static constexpr size_t kMostWeights = size_t{1} << 24U;

  // values: fast, slow, mix, near as for TwoRateUse; step; reach in tokens.
  LearnedUse(const PolicyShape& shape, std::span<const double> values);

  void on_use(const LayerUse& use) override;
  std::span<const LayerId> reordered() const override { return reordered_; }
  // Expected uses, each counting exp(-tokens until then / reach).
  double value(ExpertKey key) const override;
  const LayeredValues* layered() const override { return this; }
  std::span<const double> weights() const override;
  float standing(ExpertKey key) const override {
    return static_cast<float>(next(key) + later_ * rate(key));
  }
  void standings(LayerId layer, std::span<float> standings) const override;
  const UseForecast* forecast() const override { return this; }
  double next(ExpertKey key) const override;
  void next(LayerId layer, std::span<float> uses) const override;
  double rate(ExpertKey key) const override { return rates_.rate(key); }

 private:
  struct Source {
    int32_t layer = 0;
    size_t weights = 0;  // first of [n_experts of the source, n_experts of the target]
  };
  struct Target {
    int32_t layer = 0;
    Source source;
  };
  struct Trust {
    double agreed = 0;  // moving averages: sum times what was left to explain,
    double square = 0;  // and the sum squared
    float value = 0;
  };
  // Experts that a layer used in one token.
  class Selection {
   public:
    static constexpr size_t kMost = 64;  // more are not looked at
    std::span<const int16_t> ids() const { return std::span(ids_).first(n_); }
    std::span<const int16_t> inputs() const { return ids().first(std::min(n_, kInputs)); }
    void clear() { n_ = 0; }
    void add(ExpertId expert) {
      if (n_ < kMost) ids_[n_++] = static_cast<int16_t>(expert.value);
    }

   private:
    std::array<int16_t, kMost> ids_{};
    size_t n_ = 0;
  };

  void choose_sources();
  std::span<float> sum_of(int32_t layer) {
    return std::span(sums_).subspan(static_cast<size_t>(layer) * n_experts_, n_experts_);
  }
  std::span<const float> sums_of(int32_t layer) const {
    return std::span(sums_).subspan(static_cast<size_t>(layer) * n_experts_, n_experts_);
  }
  void note(const LayerUse& use);
  void visit(int32_t layer, const Selection& selection);
  void learn(int32_t layer, const Selection& selection);
  void fetch_rows(int32_t layer) const;
  void update_trust(Trust* trust, std::span<const float> sum);

  int32_t n_layers_;
  size_t n_experts_;
  float step_;
  TwoRateUse rates_;
  std::vector<std::vector<Source>> sources_;  // [n_layers]
  std::vector<std::vector<Target>> targets_;  // [n_layers] the same, by source
  std::vector<float> weights_;
  std::vector<float> sums_;      // [n_layers, n_experts] what the sources have said so far
  std::vector<Selection> last_;  // [n_layers]
  std::vector<Trust> trust_;     // [n_layers]
  std::vector<float> error_;     // [n_experts]
  std::vector<LayerId> reordered_;
  // [2 n_layers] of a use when the layer so many less one ahead has its turn, twice over
  std::vector<double> fading_;
  double later_ = 0;  // of one use in each token after that
  int32_t now_ = 0;
  std::vector<Selection> step_tokens_;  // [kTokens, n_layers] of the current step
};

}  // namespace tandem
