// Fits a lookahead to taps, and tables (fit_tables.h): for each source layer ridge regression, for
// all distances at once, of what later routers said minus what they would have said of this layer's
// residual (gate reuse). So what is learnt is a correction, and where no correction helps on
// prompts held back for that, there is none.
//
// Where the taps have it, each layer's router is likewise corrected for the residual before the
// layer's attention: for the table, since no run asks for it (README.md, Decisions).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/model/model.h"
#include "runtime/pregate/collection.h"
#include "runtime/pregate/pregate.h"

namespace tandem {

struct PregateFitSettings {
  int32_t n_distances = 4;  // 1 … Pregate::kMostDistances
  // Epochs of refinement at most (refine.h); none where a router has a bias for selection.
  int32_t epochs = 10;
};

// Shares of a token's experts among the guessed top_k on prompts that were held back from
// everything else, and beside them what costs nothing.
struct LinkScore {
  int32_t source = 0;
  int32_t distance = 1;  // 0: of the residual before attention
  double fitted = 0;
  double gate_reuse = 0;
  double previous_token = 0;  // the target layer's experts of the token before
  double hot_list = 0;        // the target layer's most used experts of the training prompts
  double pair_table = 0;      // who is used behind the source layer's experts
  double pair_brier = 0;
  double brier = 0;    // mean (P(use) - used)^2 of the fitted guess over all experts
  double ridge = 0;    // chosen; share of the mean square of an input. Infinite: no correction
  int32_t epochs = 0;  // of refinement that were taken
};

struct TokenTableScore {
  double recall = 0;
  double brier = 0;
};

struct FitResult {
  Pregate pregate;
  // [n_layers] of distance 0, if taps have it; then as pregate.links
  std::vector<LinkScore> scores;
  // Of the token table, which says the same at any distance and before the first layer: [L].
  std::vector<TokenTableScore> token_scores;
  double known_tokens = 0;  // share of the tokens of the test that the token table has a row for
  int64_t training_tokens = 0;
  int64_t validation_tokens = 0;
  int64_t test_tokens = 0;
  bool refines = true;  // not where a bias for selection forbids it
};

struct FitHooks {
  // Layers whose guesses, and whose tables, are fitted; from any thread, one at a time.
  std::function<void(int64_t done, int64_t of)> progress{};
  std::function<bool()> interrupted{};  // asked often, from any thread
};

// Of every five answers three are for training, one chooses among fits, one tests what was chosen.
// ConfigError when there are too few, or no layer behind the first; FileError as TapFile. parallel:
// a task a source layer and tap, then those of the tables. nullopt when it was interrupted.
std::optional<FitResult> fit_pregate(const Model& model, const Collection& data,
                                     const PregateFitSettings& settings, ParallelFor parallel,
                                     const FitHooks& hooks);

// What a task of it takes at most, in bytes. Errors likewise.
int64_t fit_task_bytes(const Model& model, const Collection& data,
                       const PregateFitSettings& settings);

}  // namespace tandem
