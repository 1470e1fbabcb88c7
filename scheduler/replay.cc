#include "scheduler/replay.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "cache/check.h"
#include "scheduler/known_future.h"

namespace tandem {
namespace {

std::vector<std::vector<int32_t>> rows_of(const std::vector<SimStep>& steps) {
  std::vector<std::vector<int32_t>> rows;
  rows.reserve(steps.size());
  for (const SimStep& step : steps) rows.push_back(step.rows);
  return rows;
}

std::unique_ptr<EvictionPolicy> make_policy(const ReplayInput& input, const FutureUses* future) {
  const PolicyInfo* info = find_eviction_policy(input.policy);
  TANDEM_CHECK(info != nullptr, "no policy %s", input.policy.c_str());
  std::vector<double> cost;
  for (const int64_t bytes : input.expert_bytes) {
    cost.push_back(static_cast<double>(bytes) / static_cast<double>(input.expert_bytes.front()));
  }
  const TraceHeader& header = input.trace->header;
  const PolicyShape shape{header.n_layers, header.n_experts, future, cost};
  if (input.policy_values.empty()) return make_eviction_policy(input.policy, shape);
  return info->make(shape, input.policy_values);
}

// What the tokens of a step ask of one layer. Order as the planner has it: most tokens first, then
// by id.
class Visit {
 public:
  explicit Visit(const Trace& trace)
      : trace_(trace), counts_(static_cast<size_t>(trace.header.n_experts)) {}

  const LayerUse& read(const std::vector<int32_t>& rows, int32_t layer) {
    std::fill(counts_.begin(), counts_.end(), 0);
    used_.clear();
    ranked_.clear();
    scores_.clear();
    for (const int32_t row : rows) {
      const auto ids = trace_.ids_of(row, layer);
      const auto weights = trace_.weights_of(row, layer);
      for (size_t r = 0; r < ids.size(); ++r) {
        ranked_.push_back(ExpertId{ids[r]});
        scores_.push_back(weights[r]);
        if (r >= static_cast<size_t>(trace_.header.top_k) || ids[r] < 0) continue;
        if (counts_[static_cast<size_t>(ids[r])]++ == 0) used_.push_back(ExpertId{ids[r]});
      }
    }
    std::sort(used_.begin(), used_.end(), [&](ExpertId a, ExpertId b) {
      const int32_t more = count(a) - count(b);
      return more != 0 ? more > 0 : a < b;
    });
    use_ = {LayerId{layer},
            used_,
            static_cast<int32_t>(rows.size()),
            trace_.header.top_k,
            trace_.header.n_ranks,
            ranked_,
            scores_};
    return use_;
  }

 private:
  int32_t count(ExpertId expert) const { return counts_[static_cast<size_t>(expert.value)]; }

  const Trace& trace_;
  std::vector<int32_t> counts_;  // [n_experts] tokens
  std::vector<ExpertId> used_;
  std::vector<ExpertId> ranked_;
  std::vector<float> scores_;
  LayerUse use_;
};

void serve(const LayerUse& use, const Admission& admission, ExpertCache* cache) {
  std::vector<ExpertId> incoming;
  for (const ExpertId expert : use.used) {
    if (!cache->find({use.layer, expert}).valid()) incoming.push_back(expert);
  }
  std::vector<SlotId> slots(incoming.size());
  cache->commit({use, incoming, slots, {}, admission, true});
  for (const SlotId slot : slots) {
    if (slot.valid()) cache->set_pieces(slot, 1, 0);
  }
}

void add(const CacheStats& more, CacheStats* sum) {
  sum->hits += more.hits;
  sum->partly += more.partly;
  sum->misses += more.misses;
  sum->inserts += more.inserts;
  sum->evictions += more.evictions;
  sum->refused += more.refused;
}

}  // namespace

ReplayResult replay(const ReplayInput& input) {
  const Trace& trace = *input.trace;
  const int32_t n_layers = trace.header.n_layers;
  KnownFuture future(trace, rows_of(input.steps));
  Visit visit(trace);
  std::unique_ptr<EvictionPolicy> policy = make_policy(input, &future);
  std::vector<int32_t> learnt;
  for (const SimStep& step : input.learn) {
    for (int32_t l = 0; l < n_layers; ++l) policy->on_use(visit.read(step.rows, l));
    learnt.insert(learnt.end(), step.rows.begin(), step.rows.end());
  }
  ExpertCache cache(
      {n_layers, trace.header.n_experts, 1, input.expert_bytes, input.capacity_bytes, input.pool},
      std::move(policy));
  if (input.contents != Contents::kHot || !learnt.empty()) {
    fill_cache(input.contents, {&trace, learnt, nullptr}, &cache);
  }

  ReplayResult result;
  for (const SimStep& step : input.steps) {
    cache.reset_stats();
    for (int32_t l = 0; l < n_layers; ++l) {
      future.move_to(future.now() + 1);
      serve(visit.read(step.rows, l), input.admission, &cache);
    }
    add(cache.stats(), step.measured ? &result.warm : &result.cold);
  }
  return result;
}

std::vector<SimStep> one_by_one(const std::vector<SimStep>& steps) {
  std::vector<SimStep> single;
  for (const SimStep& step : steps) {
    for (size_t i = 0; i < step.rows.size(); ++i) {
      single.push_back({{step.rows[i]}, step.first_pos + static_cast<int64_t>(i), step.measured});
    }
  }
  return single;
}

std::vector<SimStep> measured_steps(const std::vector<SimStep>& steps) {
  std::vector<SimStep> measured;
  std::copy_if(steps.begin(), steps.end(), std::back_inserter(measured),
               [](const SimStep& step) { return step.measured; });
  return measured;
}

std::vector<SimStep> learning_steps(const std::vector<SimStep>& steps) {
  const auto first =
      std::find_if(steps.begin(), steps.end(), [](const SimStep& step) { return step.measured; });
  return {steps.begin(), first};
}

}  // namespace tandem
