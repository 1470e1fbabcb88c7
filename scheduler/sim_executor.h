// An executor that computes nothing: routing from a trace, times from a machine profile, on a
// virtual clock. Every time that comes out is modelled.
//
// The routing of a batch is the trace's, so a Batch's tokens are rows of the trace, in any order;
// first_pos is their position in the context, for the attention's share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/executor.h"
#include "scheduler/known_future.h"
#include "scheduler/lookahead_scores.h"
#include "scheduler/model_shape.h"
#include "scheduler/timeline.h"
#include "scheduler/trace.h"

namespace tandem {

// Costs of one routed expert of each layer.
std::vector<ExpertCost> expert_costs(const ModelShape& shape);

// How the lookahead that comes with the routing is made.
struct LookaheadSettings {
  bool oracle = false;   // from the true routing with noise; otherwise what the trace recorded
  double recall = 0.85;  // of an oracle at one layer ahead; what it misses there it misses always
  double drop = 0.04;    // of its recall with each further layer
  uint64_t seed = 1;
  bool exact = false;  // no guess: the experts of all layers are chosen before the first
};

// What every resource did. Seconds, modelled.
struct SimTotals {
  double seconds = 0;
  double cpu_busy = 0;
  double gpu_busy = 0;  // experts and attention
  double link_busy = 0;
  double dram_busy = 0;  // bytes that CPU and link moved over DRAM's rate
  double cpu_waits = 0;  // of the experts' phases: the GPU alone was working
  double gpu_waits = 0;  // of the experts' phases: the CPU alone was working
  // Of the experts' phases: nothing was left to copy, or nothing worth it. DRAM has no such number:
  // it is waited for and never waits.
  double link_waits = 0;
  int64_t bytes_demand = 0;
  int64_t bytes_prefetched = 0;
  int64_t experts_cpu = 0;
  int64_t experts_gpu = 0;
  int64_t experts_split = 0;
};

class SimExecutor final : public Executor {
 public:
  // All of them outlive it. `machine` is the truth; the planner may believe something else.
  SimExecutor(const Trace& trace, const ModelShape& shape, const MachineProfile& machine,
              const LookaheadSettings& lookahead, int32_t max_tokens);
  ~SimExecutor() override;

  int32_t n_layers() const override { return shape_.n_layers; }
  Clocks clocks() const override { return clocks_; }
  void begin_step(const Batch& batch) override;
  const RoutingDecision& route(LayerId layer) override;
  void run(const LayerPlan& plan) override;
  void prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) override;
  std::span<const float> end_step() override;

  // The order in which rows will come, for those who may know: one list a step.
  void set_future(const std::vector<std::vector<int32_t>>& steps);
  const Future& future() const;

  double now_us() const { return clocks_.cpu; }
  const SimTotals& totals() const { return totals_; }
  // Of all tokens that came alone, so far.
  const LookaheadScores& lookahead_scores() const { return lookahead_scores_; }
  void reset_totals();
  void set_timeline(Timeline* timeline) { timeline_ = timeline; }

 private:
  void gather(LayerId layer);
  void end_experts();
  void look_ahead(LayerId layer);
  void ask_oracle(int32_t row, LayerId layer, int32_t ahead);
  void guess(int32_t row, int32_t target, double recall);
  double between_us(double bytes, double params) const;

  const Trace& trace_;
  const ModelShape& shape_;
  CostModel model_;
  LookaheadSettings lookahead_;
  int32_t top_k_;
  int32_t n_ahead_;
  double slow_ratio_;
  std::vector<LayerCosts> costs_;
  std::vector<double> piece_us_;

  std::vector<int32_t> rows_;  // of the current step
  int64_t first_pos_ = 0;
  Clocks clocks_;
  double link_free_ = 0;
  bool in_experts_ = false;  // experts have been enqueued and nothing after them
  RoutingDecision routing_;
  std::vector<ExpertId> ids_;
  std::vector<float> weights_;
  std::vector<ExpertId> ranked_;
  std::vector<float> scores_;
  std::vector<ExpertLoad> loads_;
  std::vector<RoutedToken> tokens_;
  std::vector<int32_t> counts_;      // [n_experts]
  std::vector<ExpertId> predicted_;  // [n_ahead, tokens, top_k]
  std::vector<double> popularity_;   // [n_layers, n_experts] running sums for wrong guesses
  LookaheadScores lookahead_scores_;
  LayerProblem problem_;
  SimTotals totals_;
  double started_us_ = 0;
  std::unique_ptr<KnownFuture> future_;
  Timeline* timeline_ = nullptr;
};

}  // namespace tandem
