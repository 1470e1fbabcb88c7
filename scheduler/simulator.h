// One configuration simulated on one trace: the engine's own step loop, planner, cache and
// prefetcher on a virtual clock. Every time in the result is modelled.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/first_contents.h"
#include "scheduler/impact_prefetcher.h"
#include "scheduler/lookahead_scores.h"
#include "scheduler/machine_profile.h"
#include "scheduler/model_shape.h"
#include "scheduler/scheduling_settings.h"
#include "scheduler/sim_executor.h"
#include "scheduler/timeline.h"
#include "scheduler/trace.h"

namespace tandem {

struct SimStep {
  std::vector<int32_t> rows;  // of the trace
  int64_t first_pos = 0;
  bool measured = false;
};

struct SimInput {
  const Trace* trace = nullptr;
  const ModelShape* shape = nullptr;
  const MachineProfile* machine = nullptr;
  const MachineProfile* believed = nullptr;  // what the planner thinks; null: the truth
  std::vector<SimStep> steps;
  int64_t capacity_bytes = 0;
  Contents contents = Contents::kEmpty;
  std::vector<int32_t> hot;       // rows for kHot
  const HotSet* saved = nullptr;  // for kSaved
  LookaheadSettings lookahead;
  Timeline* timeline = nullptr;
  HotSet* end = nullptr;  // filled with what the cache's policy values at the end
};

struct SimResult {
  int64_t tokens = 0;  // measured
  SimTotals totals;
  CacheStats cache;
  CacheStats cold;          // of the steps before the first measured one
  TransferStats transfers;  // where an end is measured, its beginning may not be
  // By distance, from 1 on: of the lookahead that comes with the routing, whether anybody acts on
  // it or not, over all tokens that came alone, measured or not.
  std::vector<LookaheadScore> lookahead;
  double tokens_per_second() const {
    return totals.seconds > 0 ? static_cast<double>(tokens) / totals.seconds : 0;
  }
  double hit_rate() const { return hit_rate_of(cache); }
  static double hit_rate_of(const CacheStats& stats) {
    const auto all = static_cast<double>(stats.hits + stats.misses);
    return all > 0 ? static_cast<double>(stats.hits) / all : 0;
  }
};

SimResult simulate(const SimInput& input, const SchedulingSettings& settings);

// Decoding the trace as it was recorded, prompts included, the cache kept from sequence to
// sequence. Measured: decode steps of the second half of a single sequence, or of all sequences
// after the first third.
std::vector<SimStep> decode_steps(const Trace& trace);
// Prompts of n tokens, made of the trace's tokens in their order; all but the first are measured.
// Empty when the trace has fewer than two such prompts.
std::vector<SimStep> prefill_steps(const Trace& trace, int32_t n);
// Rows of the steps before the first measured one: what a static placement may learn from.
std::vector<int32_t> learning_rows(const std::vector<SimStep>& steps);

}  // namespace tandem
