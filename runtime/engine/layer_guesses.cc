#include "runtime/engine/layer_guesses.h"

#include <algorithm>

#include "runtime/engine/host_vector.h"

namespace tandem {

LayerGuesses::LayerGuesses(const ModelConfig& config, const EngineShape& shape, Device& device)
    : n_layers_(config.n_layers), n_exact_(shape.router ? shape.lookahead.count : 0) {
  const Lookahead& lookahead = shape.lookahead;
  const int64_t n = shape.n_batch * lookahead.count;
  resize_host(&predicted_, n * config.routing.top_k, device, "activations");
  if (lookahead.first > 0 && lookahead.count > 0) {
    scores_.emplace(static_cast<int32_t>(config.n_layers), config.routing.n_experts,
                    config.routing.top_k, lookahead.count);
  }
  if (!lookahead.fitted) return;
  resize_host(&use_, n * config.routing.n_experts, device, "activations");
  if (lookahead.table != GuessTable::kNone) {
    tables_.emplace(config, shape, device);
    return;
  }
  sorted_.resize(static_cast<size_t>(config.routing.n_experts));
  for (int32_t layer = 0; layer < config.n_layers; ++layer) {
    for (int32_t d = 1; d <= lookahead.count; ++d) {
      links_.push_back(lookahead.fitted->link(layer, d));
    }
  }
}

void LayerGuesses::look_ahead(const DenseLayers& dense, int64_t layer, Router* router,
                              RoutingDecision* routing) {
  if (n_exact_ > 0) {
    repeat(layer, routing);
    if (scores_) scores_->observe(*routing);
    return;
  }
  if (tables_) {
    look_up(routing);
    if (scores_) scores_->observe(*routing);
    return;
  }
  const int32_t reachable = dense.reachable(layer);
  routing->n_ahead = dense.distances();
  select(dense, reachable, router, routing);
  routing->predicted_use = {};
  if (!links_.empty() && !dense.ranked()) calibrate(dense, layer, reachable, routing);
  if (scores_) scores_->observe(*routing);
}

void LayerGuesses::repeat(int64_t layer, RoutingDecision* routing) {
  const size_t n = routing->ids.size();
  routing->n_ahead = n_exact_;
  routing->exact_ahead = true;
  const auto all = std::span(predicted_).first(n * static_cast<size_t>(n_exact_));
  for (int32_t i = 0; i < n_exact_; ++i) {
    const auto known = all.subspan(static_cast<size_t>(i) * n, n);
    if (layer + 1 + i < n_layers_) {
      std::ranges::copy(routing->ids, known.begin());
    } else {
      std::fill(known.begin(), known.end(), ExpertId{});
    }
  }
  routing->predicted = all;
}

// A guess that is not finite is none: if the weights are damaged, their own layer will say so.
void LayerGuesses::select(const DenseLayers& dense, int32_t reachable, Router* router,
                          RoutingDecision* routing) {
  const size_t n = routing->ids.size();
  const auto all = std::span(predicted_).first(n * static_cast<size_t>(routing->n_ahead));
  for (int32_t i = 0; i < routing->n_ahead; ++i) {
    const auto guess = all.subspan(static_cast<size_t>(i) * n, n);
    if (i < reachable && dense.ranked()) {
      std::ranges::copy(dense.reused_ids(i), guess.begin());
      continue;
    }
    if (i < reachable && router->select(dense.reused_logits(i), routing->n_tokens, guess)) {
      continue;
    }
    std::fill(guess.begin(), guess.end(), ExpertId{});
  }
  routing->predicted = all;
}

void LayerGuesses::calibrate(const DenseLayers& dense, int64_t layer, int32_t reachable,
                             RoutingDecision* routing) {
  const size_t n = routing->ids.size();
  const auto n_ahead = static_cast<size_t>(routing->n_ahead);
  const size_t uses = static_cast<size_t>(routing->n_tokens) * sorted_.size();
  const auto all = std::span(use_).first(uses * n_ahead);
  for (size_t i = 0; i < n_ahead; ++i) {
    const auto use = all.subspan(i * uses, uses);
    const bool guessed = static_cast<int32_t>(i) < reachable && routing->predicted[i * n].valid();
    const PregateLink* link = links_[static_cast<size_t>(layer) * n_ahead + i];
    if (guessed && link != nullptr) {
      calibrate(*link, dense.reused_logits(static_cast<int32_t>(i)), routing->top_k, use);
    } else {
      std::fill(use.begin(), use.end(), 0.0F);
    }
  }
  routing->predicted_use = all;
}

void LayerGuesses::calibrate(const PregateLink& link, const float* logits, int32_t top_k,
                             std::span<float> use) {
  const size_t n_experts = sorted_.size();
  for (size_t first = 0; first < use.size(); first += n_experts) {
    calibrated_use(link.calib_scale, link.calib_offset, top_k, {logits + first, n_experts},
                   use.subspan(first, n_experts), sorted_);
  }
}

void LayerGuesses::look_up(RoutingDecision* routing) {
  routing->n_ahead = tables_->distances();
  const auto n_ahead = static_cast<size_t>(routing->n_ahead);
  const auto predicted = std::span(predicted_).first(n_ahead * routing->ids.size());
  const size_t uses = static_cast<size_t>(routing->n_tokens) * tables_->n_experts();
  const auto use = std::span(use_).first(n_ahead * uses);
  tables_->look_up(*routing, predicted, use);
  routing->predicted = predicted;
  routing->predicted_use = use;
}

}  // namespace tandem
