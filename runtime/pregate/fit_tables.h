// Fits expert tables to taps: counts of what was used, and how far to believe them, which prompts
// decide that were not counted.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/function_ref.h"
#include "runtime/model/model.h"
#include "runtime/pregate/expert_tables.h"
#include "runtime/pregate/source_fit.h"

namespace tandem {

// On prompts that were held back from everything else.
struct TableScore {
  double recall = 0;  // share of a token's experts among the guessed top_k
  double brier = 0;   // mean (P(use) - used)^2 over all experts
};

struct FittedTables {
  ExpertTables tables;
  std::vector<TableScore> pairs;   // as tables.pairs
  std::vector<TableScore> tokens;  // [L], of the token table
  double known = 0;                // share of the tokens that it has a row for
};

// Runs a task for each number below n, and says whether all were done: a task that was stopped says
// false.
using TableTasks = FunctionRef<bool(int64_t n, FunctionRef<bool(int64_t i)> task)>;

inline int64_t n_table_tasks(const ModelConfig& config) { return 2 * config.n_layers; }

// nullopt when it was stopped. FileError as TapFile.
std::optional<FittedTables> fit_tables(const Model& model, const TapSplit& data,
                                       int32_t n_distances, TableTasks tasks);

// What a task of it takes at most, in bytes.
int64_t table_task_bytes(const TapShape& shape, int64_t validation_tokens);

}  // namespace tandem
