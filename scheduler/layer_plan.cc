#include "scheduler/layer_plan.h"

namespace tandem {

void commit(LayerPlan* plan, ExpertCache* cache) {
  plan->incoming.clear();
  plan->incoming_pieces.clear();
  for (const int32_t i : plan->fetches) {
    const PlannedExpert& expert = plan->experts[static_cast<size_t>(i)];
    if (expert.slot.valid()) continue;
    plan->incoming.push_back(expert.expert);
    plan->incoming_pieces.push_back(expert.gpu);
  }
  plan->slots.assign(plan->incoming.size(), SlotId{});
  cache->commit({plan->use, plan->incoming, plan->slots, plan->incoming_pieces, plan->admission,
                 plan->streams});
  size_t given = 0;
  for (const int32_t i : plan->fetches) {
    PlannedExpert& expert = plan->experts[static_cast<size_t>(i)];
    if (!expert.slot.valid()) expert.slot = plan->slots[given++];
    if (expert.slot.valid()) cache->set_pieces(expert.slot, expert.gpu, plan->end.link);
  }
}

}  // namespace tandem
