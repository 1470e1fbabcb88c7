#include "scheduler/simulator.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "cache/check.h"
#include "scheduler/first_contents.h"
#include "scheduler/make_scheduling.h"
#include "scheduler/step.h"

namespace tandem {
SimResult simulate(const SimInput& input, const SchedulingSettings& given) {
  const Trace& trace = *input.trace;
  const ModelShape& shape = *input.shape;
  SchedulingSettings settings = given;
  if (input.lookahead.exact) settings.prefetch.ahead = shape.n_layers - 1;
  size_t most = 1;
  std::vector<std::vector<int32_t>> future;
  for (const SimStep& step : input.steps) {
    most = std::max(most, step.rows.size());
    future.push_back(step.rows);
  }
  SimExecutor exec(trace, shape, *input.machine, input.lookahead, static_cast<int32_t>(most));
  exec.set_future(future);
  exec.set_timeline(input.timeline);

  CacheShape cache_shape{shape.n_layers,     shape.n_experts,      shape.split_pieces,
                         shape.expert_bytes, input.capacity_bytes, settings.pool};
  if (input.contents == Contents::kEverything) {
    cache_shape.capacity_bytes =
        shape.n_experts *
        std::accumulate(shape.expert_bytes.begin(), shape.expert_bytes.end(), int64_t{0});
  }
  ExpertCache cache(cache_shape, make_policy(settings, cache_shape, &exec.future()));
  fill_cache(input.contents, {&trace, input.hot, input.saved}, &cache);

  const CostModel believed(input.believed != nullptr ? *input.believed : *input.machine);
  const std::vector<ExpertCost> experts = expert_costs(shape);
  const PlacementRule rule = placement_rule(settings.planner);
  TANDEM_CHECK(rule != nullptr, "no planner %s", settings.planner.c_str());
  Planner planner(believed, experts,
                  {rule, true, settings.may_split, true, settings.admission, settings.calibrate});
  const auto prefetcher = make_prefetcher(settings, believed, experts, cache, &exec.future());

  SimResult result;
  LayerPlan plan;
  bool measuring = false;
  TransferStats transfers;  // before what is measured
  // What is measured in one piece; times of unmeasured steps in between are left out.
  const auto add = [&] {
    const SimTotals& t = exec.totals();
    result.totals.seconds += t.seconds;
    result.totals.cpu_busy += t.cpu_busy;
    result.totals.gpu_busy += t.gpu_busy;
    result.totals.link_busy += t.link_busy;
    result.totals.dram_busy += t.dram_busy;
    result.totals.cpu_waits += t.cpu_waits;
    result.totals.gpu_waits += t.gpu_waits;
    result.totals.link_waits += t.link_waits;
    result.totals.bytes_demand += t.bytes_demand;
    result.totals.bytes_prefetched += t.bytes_prefetched;
    result.totals.experts_cpu += t.experts_cpu;
    result.totals.experts_gpu += t.experts_gpu;
    result.totals.experts_split += t.experts_split;
    result.cache.hits += cache.stats().hits;
    result.cache.partly += cache.stats().partly;
    result.cache.misses += cache.stats().misses;
    result.cache.inserts += cache.stats().inserts;
    result.cache.evictions += cache.stats().evictions;
    result.transfers.add(transfers, prefetcher->stats());
  };
  for (const SimStep& step : input.steps) {
    if (step.measured != measuring) {
      if (measuring) add();
      if (result.tokens == 0) result.cold = cache.stats();
      measuring = step.measured;
      exec.reset_totals();
      cache.reset_stats();
      transfers = prefetcher->stats();
    }
    const Batch batch{step.rows, step.first_pos, 1};
    run_step(batch, exec, planner, cache, *prefetcher, plan);
    if (measuring) result.tokens += static_cast<int64_t>(step.rows.size());
  }
  if (measuring) add();
  const LookaheadScores& scores = exec.lookahead_scores();
  for (int32_t d = 1; d <= scores.n_distances(); ++d) result.lookahead.push_back(scores.of(d));
  if (input.end != nullptr) *input.end = hot_set_of(cache);
  return result;
}

std::vector<SimStep> decode_steps(const Trace& trace) {
  int32_t n_sequences = 0;
  for (const TraceStep& step : trace.steps) n_sequences = std::max(n_sequences, step.sequence + 1);
  const int32_t warm = n_sequences > 1 ? std::max(1, n_sequences / 3) : 0;
  std::vector<SimStep> steps;
  int32_t sequence = -1;
  int64_t position = 0;
  for (size_t i = 0; i < trace.steps.size(); ++i) {
    const TraceStep& from = trace.steps[i];
    if (from.sequence != sequence) position = 0;
    sequence = from.sequence;
    SimStep step;
    step.rows.resize(static_cast<size_t>(from.n_tokens));
    std::iota(step.rows.begin(), step.rows.end(), static_cast<int32_t>(from.first_token));
    step.first_pos = position;
    const bool late = n_sequences > 1 ? sequence >= warm : i >= trace.steps.size() / 2;
    step.measured = !from.prefill && late;
    position += from.n_tokens;
    steps.push_back(std::move(step));
  }
  return steps;
}

std::vector<SimStep> prefill_steps(const Trace& trace, int32_t n) {
  std::vector<SimStep> steps;
  const int64_t n_tokens = trace.n_tokens();
  for (int64_t begin = 0; begin + n <= n_tokens; begin += n) {
    SimStep step;
    step.rows.resize(static_cast<size_t>(n));
    std::iota(step.rows.begin(), step.rows.end(), static_cast<int32_t>(begin));
    step.measured = begin > 0;
    steps.push_back(std::move(step));
  }
  if (steps.size() < 2) steps.clear();
  return steps;
}

std::vector<int32_t> learning_rows(const std::vector<SimStep>& steps) {
  std::vector<int32_t> rows;
  for (const SimStep& step : steps) {
    if (step.measured) break;
    rows.insert(rows.end(), step.rows.begin(), step.rows.end());
  }
  return rows;
}

}  // namespace tandem
