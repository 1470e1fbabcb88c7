#include "scheduler/step.h"

namespace tandem {

std::span<const float> run_step(const Batch& batch, Executor& exec, Planner& planner,
                                ExpertCache& cache, Prefetcher& prefetcher, LayerPlan& plan) {
  exec.begin_step(batch);
  for (LayerId layer{0}; layer.value < exec.n_layers(); ++layer.value) {
    const RoutingDecision& routing = exec.route(layer);  // at most one host sync a layer
    prefetcher.observe(routing, cache);
    planner.plan(routing, cache, exec.clocks(), &plan);  // pure
    commit(&plan, &cache);                               // victims and slots
    exec.run(plan);                                      // enqueue and return
    planner.learn(plan, exec.clocks());                  // what that took
    prefetcher.prefetch(plan, cache, exec);              // what the link has left
    planner.learn_copies(prefetcher.stats().bytes, exec.clocks());
  }
  return exec.end_step();
}

}  // namespace tandem
