// Whom the next token will use, before it is known: the token is guessed from the text so far
// (runtime/pregate/text_lookup.h), its experts are those that it used at the place where it was
// found, and the rest is the token table's. How far to believe either is learnt while decoding.
// Called by the thread that runs the step loop. Nothing allocates after construction.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/model/model_config.h"
#include "runtime/pregate/expert_tables.h"
#include "runtime/pregate/text_lookup.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

class NextTokenGuess {
 public:
  static constexpr int32_t kLongest = 8;  // tokens that are looked for

  // The tables outlive this. MemoryError when the host is too small.
  NextTokenGuess(const ModelConfig& config, const ExpertTables& tables, int64_t n_ctx,
                 Device& device);

  // The tokens of a step, which replace those that the text had from their position on.
  void begin_step(const Batch& batch);
  // What a layer of the step routed.
  void observe(const RoutingDecision& routing);
  // P(use) of each expert in a layer of the token behind the step, as far as it is the guessed one;
  // the step has one token and has passed that layer. use: [n_experts]. False, and nothing written,
  // where no token is likely.
  bool guess(int32_t layer, std::span<float> use);

  // The token that is guessed behind the step; -1: none.
  int32_t token() const {
    return match_.length > 0 ? text_[static_cast<size_t>(match_.position)] : -1;
  }

 private:
  std::span<const uint16_t> used_at(int64_t position, int32_t layer) const;

  const ExpertTables& tables_;
  size_t n_layers_;
  size_t top_k_;
  std::vector<int32_t> text_;    // [n_ctx], of which the first n_text_
  std::vector<uint16_t> used_;   // [n_ctx, n_layers, top_k]
  std::vector<float> of_token_;  // [n_experts]
  int64_t n_text_ = 0;
  int64_t first_ = 0;      // position of the step
  TextMatch match_{};      // behind the step
  TextMatch came_true_{};  // what the step's token was guessed by; a length of 0: it was not
  int64_t row_ = -1;       // of the guessed token
  // Shares, moving averages: of guesses that come true, by the length of the match, and of the
  // experts that such a token uses again.
  std::array<float, kLongest + 1> right_{};
  float again_ = 0.5F;
};

}  // namespace tandem
