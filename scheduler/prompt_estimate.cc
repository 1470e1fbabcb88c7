#include "scheduler/prompt_estimate.h"

#include <algorithm>
#include <cmath>

#include "scheduler/placement.h"

namespace tandem {
namespace {

double dense_us(const ModelShape::Part& part, const CostModel& costs, int64_t n) {
  return part.bytes == 0 ? 0 : costs.gpu_us(part.bytes, 2 * part.params * n);
}

double experts_us(const ModelShape& shape, const LayerCosts& cost, const PromptRoom& room,
                  int64_t n) {
  const double missed = 1 - static_cast<double>(shape.top_k) / shape.n_experts;
  const double used = shape.n_experts * (1 - std::pow(missed, static_cast<double>(n)));
  const auto n_used = std::max<int64_t>(std::llround(used), 1);
  const auto n_there = std::llround(room.share * static_cast<double>(n_used));
  LayerProblem problem;
  problem.cost = cost;
  problem.room = room.fetches;
  for (int64_t i = 0; i < n_used; ++i) {
    const int64_t tokens = (n * shape.top_k + n_used - 1 - i) / n_used;  // heaviest first
    problem.items.push_back({static_cast<int32_t>(tokens), i < n_there ? cost.pieces : 0, 0, 0});
  }
  LayerProblem scratch;
  place_exact(&problem, &scratch);
  const Clocks end = layer_end(&problem);
  return std::max(end.cpu, end.gpu);
}

}  // namespace

double prompt_token_us(const ModelShape& shape, const CostModel& costs, const PromptRoom& room,
                       int64_t n) {
  double us = dense_us(shape.other, costs, 1);  // of a batch's last token
  int64_t known_bytes = -1;
  double layer_us = 0;
  for (const int64_t bytes : shape.expert_bytes) {
    if (bytes != known_bytes) {  // few models have layers of different sizes
      known_bytes = bytes;
      const LayerCosts cost = costs.layer({bytes, 2 * shape.expert_params, shape.split_pieces});
      layer_us = costs.profile().layer_overhead_us + dense_us(shape.attention, costs, n) +
                 dense_us(shape.shared_expert, costs, n) + experts_us(shape, cost, room, n);
    }
    us += layer_us;
  }
  return us / static_cast<double>(n);
}

}  // namespace tandem
