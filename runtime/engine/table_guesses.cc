#include "runtime/engine/table_guesses.h"

#include <algorithm>

#include "runtime/engine/host_vector.h"

namespace tandem {

TableGuesses::TableGuesses(const ModelConfig& config, const EngineShape& shape, Device& device)
    : fitted_(shape.lookahead.fitted),
      tables_(*fitted_->tables),
      table_(shape.lookahead.table),
      n_layers_(static_cast<int32_t>(config.n_layers)),
      distances_(shape.lookahead.count),
      scores_(static_cast<size_t>(config.routing.n_experts)),
      scratch_(scores_.size()) {
  resize_host(&rows_, shape.n_batch, device, "lookahead");
  base_.resize(static_cast<size_t>(n_layers_) * scores_.size());
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    const auto l = static_cast<size_t>(layer);
    log_odds(tables_.hot[l], std::span(base_).subspan(l * scores_.size(), scores_.size()));
    for (int32_t d = 1; d <= distances_; ++d) pairs_.push_back(tables_.pair(layer, d));
  }
  if (table_ == GuessTable::kDraftFree) next_.emplace(config, tables_, shape.n_ctx, device);
}

void TableGuesses::begin_step(const Batch& batch) {
  for (size_t t = 0; t < batch.tokens.size(); ++t) rows_[t] = tables_.tokens.row(batch.tokens[t]);
  if (next_) next_->begin_step(batch);
}

void TableGuesses::look_up(const RoutingDecision& routing, std::span<ExpertId> ids,
                           std::span<float> use) {
  if (next_) next_->observe(routing);
  const auto k = static_cast<size_t>(routing.top_k);
  const size_t n_experts = scores_.size();
  const auto n = static_cast<size_t>(routing.n_tokens);
  for (int32_t d = 1; d <= distances_; ++d) {
    for (size_t t = 0; t < n; ++t) {
      const size_t at = static_cast<size_t>(d - 1) * n + t;
      const auto to = use.subspan(at * n_experts, n_experts);
      const auto best = ids.subspan(at * k, k);
      if (guess(routing, d, t, to)) {
        largest(to, best);
      } else {
        std::fill(to.begin(), to.end(), 0.0F);
        std::fill(best.begin(), best.end(), ExpertId{});
      }
    }
  }
}

bool TableGuesses::guess(const RoutingDecision& routing, int32_t distance, size_t token,
                         std::span<float> use) {
  const int32_t layer = routing.layer.value;
  const int32_t target = layer + distance;
  if (target >= n_layers_) {
    // Of the token after next nothing is known.
    if (!next_ || distance > n_layers_ || routing.n_tokens != 1) return false;
    return next_->guess(target - n_layers_, use);
  }
  if (table_ != GuessTable::kPairs) {
    token_use(tables_, target, rows_[token], use);
    return true;
  }
  const auto at = static_cast<size_t>(layer) * static_cast<size_t>(distances_);
  const PairLink* link = pairs_[at + static_cast<size_t>(distance - 1)];
  if (link == nullptr) return false;
  const size_t n = scores_.size();
  const auto k = static_cast<size_t>(routing.top_k);
  pair_scores(*link, std::span(base_).subspan(static_cast<size_t>(target) * n, n),
              routing.ids.subspan(token * k, k), scores_, scratch_);
  calibrated_use(link->calib_scale, link->calib_offset, routing.top_k, scores_, use, scratch_);
  return true;
}

}  // namespace tandem
