#include "scheduler/planner.h"

#include <algorithm>

namespace tandem {

Planner::Planner(const CostModel& model, const std::vector<ExpertCost>& experts,
                 const PlannerSettings& settings)
    : settings_(settings), calibration_(model) {
  for (const ExpertCost& expert : experts) costs_.push_back(model.layer(expert));
  problem_.may_split = settings.may_split;
}

void Planner::plan(const RoutingDecision& routing, const ExpertCache& cache, const Clocks& now,
                   LayerPlan* plan) {
  classify(routing, cache, plan);
  plan->factors = calibration_.factors();
  problem_.cost = corrected(costs_[static_cast<size_t>(routing.layer.value)], plan->factors);
  problem_.now = now;
  // Behind copies that are under way another one follows at once.
  if (now.link > now.cpu) problem_.cost.copy_latency = 0;
  plan->streams = settings_.streams;
  plan->admission = settings_.admission;
  problem_.room = settings_.streams ? static_cast<int32_t>(plan->experts.size())
                                    : std::min(cache.room_beside(routing.layer, plan->used),
                                               settings_.admission.most_per_layer);
  problem_.items.clear();
  for (const PlannedExpert& e : plan->experts) {
    problem_.items.push_back({e.count, e.present, std::min(e.ready, now.link), 0});
  }
  if (settings_.use_gpu) settings_.rule(&problem_, &scratch_);
  plan->pieces = problem_.cost.pieces;
  plan->start = now;
  plan->end = layer_end(&problem_);
  plan->fetches.assign(problem_.fetch_order.begin(), problem_.fetch_order.end());
  for (size_t i = 0; i < plan->experts.size(); ++i) {
    plan->experts[i].gpu = problem_.items[i].gpu;
  }
}

void Planner::learn(const LayerPlan& plan, const Clocks& end) {
  if (settings_.calibrate) calibration_.learn(problem_.cost, plan, end);
}

void Planner::learn_copies(int64_t bytes, const Clocks& now) {
  if (settings_.calibrate) calibration_.learn_copies(bytes - copied_bytes_, now.link);
  copied_bytes_ = bytes;
}

void Planner::classify(const RoutingDecision& routing, const ExpertCache& cache, LayerPlan* plan) {
  plan->experts.clear();
  plan->used.clear();
  for (const ExpertLoad& load : routing.loads) {
    const SlotId slot = settings_.use_gpu ? cache.find({routing.layer, load.expert}) : SlotId{};
    PlannedExpert expert{load.expert, load.first, load.count, slot, 0, 0, 0};
    if (slot.valid()) {
      expert.present = cache.pieces(slot);
      expert.ready = cache.ready_at(slot);
    }
    plan->experts.push_back(expert);
  }
  sort_by_load(plan);
  for (const PlannedExpert& expert : plan->experts) plan->used.push_back(expert.expert);
  plan->use = {routing.layer,   plan->used,     routing.n_tokens, routing.top_k,
               routing.n_ranks, routing.ranked, routing.scores};
}

// Heaviest first, ties by id: loads come by id, and in decoding they are all one.
void Planner::sort_by_load(LayerPlan* plan) {
  const auto heavier = [](const PlannedExpert& a, const PlannedExpert& b) {
    return a.count != b.count ? a.count > b.count : a.expert < b.expert;
  };
  if (!std::is_sorted(plan->experts.begin(), plan->experts.end(), heavier)) {
    std::sort(plan->experts.begin(), plan->experts.end(), heavier);
  }
}

}  // namespace tandem
