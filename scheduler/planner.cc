#include "scheduler/planner.h"

#include <algorithm>
#include <utility>

namespace tandem {

Planner::Planner(CostModel model, std::vector<ExpertCost> experts, const PlannerSettings& settings)
    : model_(std::move(model)), experts_(std::move(experts)), settings_(settings) {}

void Planner::plan(const RoutingDecision& routing, const ExpertCache& cache, const Clocks& now,
                   LayerPlan* plan) {
  classify(routing, cache, plan);
  const int32_t room = settings_.use_gpu ? cache.room_beside(plan->layer, plan->used) : 0;
  plan->n_fetch = best_fetch_count(*plan, room, now);
  const ExpertCost& cost = experts_[static_cast<size_t>(plan->layer.value)];
  ModelTime link = now.link;
  for (PlannedExpert& expert : plan->experts) {
    if (static_cast<int32_t>(plan->incoming.size()) == plan->n_fetch) break;
    if (expert.placement != Placement::kCpu) continue;
    expert.placement = Placement::kFetch;
    link += model_.fetch_us(cost);
    plan->incoming.push_back(expert.expert);
    plan->ready.push_back(link);
  }
  plan->end = finish(*plan, 0, now);
  plan->end.link = link;
  admit(room - plan->n_fetch, plan);
  plan->slots.assign(plan->incoming.size(), SlotId{});
}

void Planner::classify(const RoutingDecision& routing, const ExpertCache& cache, LayerPlan* plan) {
  plan->layer = routing.layer;
  plan->experts.clear();
  plan->used.clear();
  plan->incoming.clear();
  plan->ready.clear();
  for (const ExpertLoad& load : routing.loads) {
    const SlotId slot = settings_.use_gpu ? cache.find({routing.layer, load.expert}) : SlotId{};
    const ModelTime ready = slot.valid() ? cache.ready_at(slot) : 0;
    plan->experts.push_back({load.expert, load.first, load.count,
                             slot.valid() ? Placement::kGpu : Placement::kCpu, slot, ready});
  }
  std::sort(plan->experts.begin(), plan->experts.end(), [](const auto& a, const auto& b) {
    return a.count != b.count ? a.count > b.count : a.expert < b.expert;
  });
  for (const PlannedExpert& expert : plan->experts) plan->used.push_back(expert.expert);
}

int32_t Planner::best_fetch_count(const LayerPlan& plan, int32_t room, const Clocks& now) const {
  int32_t absent = 0;
  for (const PlannedExpert& expert : plan.experts) {
    absent += expert.placement == Placement::kCpu ? 1 : 0;
  }
  int32_t best = 0;
  ModelTime best_end = 0;
  for (int32_t n = 0; n <= std::min(absent, room); ++n) {
    const Clocks end = finish(plan, n, now);
    const ModelTime makespan = std::max(end.cpu, end.gpu);
    if (n == 0 || makespan < best_end) {
      best = n;
      best_end = makespan;
    }
  }
  return best;
}

Clocks Planner::finish(const LayerPlan& plan, int32_t n_fetch, const Clocks& now) const {
  const ExpertCost& cost = experts_[static_cast<size_t>(plan.layer.value)];
  Clocks end = now;
  bool cpu_woken = false;
  // Residents first: they keep the GPU busy while the copies run.
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.placement != Placement::kGpu) continue;
    end.gpu = std::max(end.gpu, expert.ready) + model_.gpu_expert_us(cost, expert.count);
  }
  int32_t fetched = 0;
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.placement == Placement::kGpu) continue;
    if (expert.placement == Placement::kFetch || fetched < n_fetch) {
      ++fetched;
      end.link += model_.fetch_us(cost);
      end.gpu = std::max(end.gpu, end.link) + model_.gpu_expert_us(cost, expert.count);
      continue;
    }
    if (!std::exchange(cpu_woken, true)) end.cpu += model_.profile().cpu.first_expert_us;
    end.cpu += model_.cpu_expert_us(cost, expert.count);
  }
  return end;
}

void Planner::admit(int32_t room, LayerPlan* plan) const {
  const ExpertCost& cost = experts_[static_cast<size_t>(plan->layer.value)];
  int32_t left = std::min(room, settings_.admit_per_layer);
  for (const PlannedExpert& expert : plan->experts) {
    if (left <= 0) return;
    if (expert.placement != Placement::kCpu) continue;
    --left;
    plan->end.link += model_.fetch_us(cost);
    plan->incoming.push_back(expert.expert);
    plan->ready.push_back(plan->end.link);
  }
}

}  // namespace tandem
