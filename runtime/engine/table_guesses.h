// What tables say of later layers' routing: who is used behind a layer's experts, whom a token
// uses, and whom the next token would (next_token_guess.h). Nothing is computed on the device.
// Called by the thread that runs the step loop. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/engine/next_token_guess.h"
#include "runtime/model/model_config.h"
#include "runtime/pregate/pregate.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

class TableGuesses {
 public:
  // shape.lookahead has tables, and names one. MemoryError when the host is too small.
  TableGuesses(const ModelConfig& config, const EngineShape& shape, Device& device);

  void begin_step(const Batch& batch);
  // By what the layer routed. ids: [distances(), n_tokens, top_k], use: [distances(), n_tokens,
  // n_experts]; invalid and 0 where nothing is guessed.
  void look_up(const RoutingDecision& routing, std::span<ExpertId> ids, std::span<float> use);
  int32_t distances() const { return distances_; }
  size_t n_experts() const { return scores_.size(); }

 private:
  // Of one token and distance. False, and nothing of use, where nothing is guessed.
  bool guess(const RoutingDecision& routing, int32_t distance, size_t token, std::span<float> use);

  std::shared_ptr<const Pregate> fitted_;  // owns the tables
  const ExpertTables& tables_;
  GuessTable table_;
  int32_t n_layers_;
  int32_t distances_;
  std::vector<const PairLink*> pairs_;  // [n_layers, distances]
  std::vector<float> base_;             // [n_layers, n_experts] log-odds
  std::vector<int64_t> rows_;           // [n_batch] of the token table
  std::vector<float> scores_;           // [n_experts]
  std::vector<float> scratch_;          // [n_experts]
  std::optional<NextTokenGuess> next_;
};

}  // namespace tandem
