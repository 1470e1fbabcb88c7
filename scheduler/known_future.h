// The future of a trace whose steps are known: when each expert is used next, by layer visit.
// Owned by who replays the trace, moved on by them with each visit of a layer.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/future.h"
#include "scheduler/trace.h"

namespace tandem {

class KnownFuture final : public Future {
 public:
  // steps: rows of the trace, one list a step; every step visits all layers in their order.
  // Nothing is kept of the trace.
  KnownFuture(const Trace& trace, const std::vector<std::vector<int32_t>>& steps);

  // Visits count from 0; before the first one is -1, where it starts. Moves forwards only.
  void move_to(int64_t visit) { now_ = visit; }
  int64_t now() const { return now_; }

  double next_use(ExpertKey key) const override;
  Visit visit(int32_t ahead) const override;

 private:
  size_t index(ExpertKey key) const {
    return static_cast<size_t>(key.layer.value) * static_cast<size_t>(n_experts_) +
           static_cast<size_t>(key.expert.value);
  }

  int32_t n_layers_;
  int32_t n_experts_;
  int64_t now_ = -1;
  std::vector<std::vector<int64_t>> uses_;  // visits, by expert
  mutable std::vector<size_t> next_;        // the first use that is not past
  std::vector<ExpertId> used_;              // of all visits
  std::vector<int64_t> first_;              // of each visit
};

}  // namespace tandem
