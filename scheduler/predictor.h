// Guesses which experts the next layers will use, without any training. Guesses never change what
// is computed; they only decide what is copied early.
// Owned by a prefetcher; called by the thread that runs the step loop. Nothing allocates after
// construction.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "cache/policies/scores.h"
#include "scheduler/routing.h"

namespace tandem {

// One of several predictors that another chooses among; see ladder_predictor.h.
struct PredictorRung {
  std::string_view name;
  double score;            // moving average of how well it guesses
  int64_t layers_trusted;  // layers of decoded tokens for which it was believed
  bool believed;           // now
};

class Predictor {
 public:
  virtual ~Predictor() = default;
  // A layer's true routing, and with it what the lookahead says about the layers after it.
  virtual void observe(const RoutingDecision& routing) = 0;
  // How many tokens of this batch are expected to use each expert of the layer `ahead` layers after
  // the one observed last; the layer after the last is the first one of the next token.
  // loads: [n_experts]. False, and nothing written, when there is no guess.
  virtual bool predict(int32_t ahead, std::span<float> loads) const = 0;
  // Whether what it predicts is known: the experts are chosen already.
  virtual bool exact() const { return false; }
  // At a distance, from 1 on, the first choice first; empty where there is no choice.
  virtual std::vector<PredictorRung> rungs(int32_t /*ahead*/) const { return {}; }
};

// How often guesses come true, by distance: a moving average that starts at `start`.
class Precision {
 public:
  explicit Precision(double start) : value_(start) {}
  void note(double right, double guessed) {
    if (guessed > 0) value_ += kRate * (right / guessed - value_);
  }
  double value() const { return value_; }

 private:
  static constexpr double kRate = 0.02;
  double value_;
};

// The lookahead that comes with the routing: the next layers' gates applied to this layer's input
// (gate reuse), a fitted guess of theirs, tables, or in simulations the true routing with noise (an
// oracle). A guess for the next token counts only where that comes in a step of as many tokens.
// What it says of a distance is believed as far as it came true of late: P(use) where it is
// calibrated, in proportion to what it promised; else those that it names.
class LookaheadPredictor final : public Predictor {
 public:
  LookaheadPredictor(int32_t n_layers, int32_t n_experts, int32_t max_ahead);
  void observe(const RoutingDecision& routing) override;
  bool predict(int32_t ahead, std::span<float> loads) const override;
  bool exact() const override { return exact_; }

 private:
  struct Guess {
    bool valid = false;
    int32_t n_tokens = 1;
    std::vector<float> loads;  // [n_experts]
    float promised = 0;        // of these, to come true; 0: not to be held against it
  };
  void fill(const RoutingDecision& routing, int32_t ahead, Guess* guess) const;
  Guess& guess(int32_t layer, int32_t ahead) {
    return guesses_[static_cast<size_t>(layer * max_ahead_ + ahead - 1)];
  }
  const Guess& guess(int32_t layer, int32_t ahead) const {
    return guesses_[static_cast<size_t>(layer * max_ahead_ + ahead - 1)];
  }

  int32_t n_layers_;
  size_t n_experts_;
  int32_t max_ahead_;
  int32_t now_ = 0;
  bool exact_ = false;
  std::vector<Guess> guesses_;  // [n_layers, max_ahead]: for this layer, made so many before it
  std::vector<Precision> precision_;  // [max_ahead]
};

// The same experts as for the previous token.
class PreviousTokenPredictor final : public Predictor {
 public:
  PreviousTokenPredictor(int32_t n_layers, int32_t n_experts);
  void observe(const RoutingDecision& routing) override;
  bool predict(int32_t ahead, std::span<float> loads) const override;

 private:
  int32_t n_layers_;
  size_t n_experts_;
  int32_t now_ = 0;
  int32_t n_tokens_ = 1;
  std::vector<float> last_;  // [n_layers, n_experts] share of the tokens
  Precision precision_{0.3};
};

// The experts that have been used most, at their rates.
class HotListPredictor final : public Predictor {
 public:
  HotListPredictor(int32_t n_layers, int32_t n_experts);
  void observe(const RoutingDecision& routing) override;
  bool predict(int32_t ahead, std::span<float> loads) const override;

 private:
  int32_t n_layers_;
  int32_t n_experts_;
  int32_t now_ = 0;
  int32_t n_tokens_ = 1;
  TwoRateUse rates_;
};

struct PredictorShape {
  int32_t n_layers = 0;
  int32_t n_experts = 0;
  int32_t max_ahead = 3;
};

// "none", "previous-token", "hot-list", "gate-reuse" (the lookahead that comes with the routing),
// "ladder" (that, the previous token or nobody: ladder_predictor.h), and "pair-table",
// "token-table" and "draft-free" (the lookahead again, from tables: needs_tables()). nullptr for an
// unknown name and for "none".
std::unique_ptr<Predictor> make_predictor(std::string_view name, const PredictorShape& shape);
std::span<const std::string_view> predictor_names();
// Whether the predictor is one whose lookahead is made of a model's tables: runtime/pregate.
bool needs_tables(std::string_view name);

}  // namespace tandem
