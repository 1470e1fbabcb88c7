#include "runtime/engine/decoupled_routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "kernels/check.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr int64_t kTokensAtOnce = 64;  // between two looks at whether to go on

}  // namespace

DecoupledRoutes::DecoupledRoutes(const ModelConfig& config, const EngineShape& shape)
    : config_(config),
      n_batch_(shape.n_batch),
      state_(*shape.router, shape.n_ctx, shape.n_batch),
      router_(config.routing, static_cast<int32_t>(shape.n_batch)) {
  const auto n_experts = static_cast<size_t>(config.routing.n_experts);
  for (int32_t i = 0; i < config.n_layers; ++i) layers_.push_back(LayerId{i});
  logits_.resize(static_cast<size_t>(shape.n_ctx) * n_experts);
  chosen_.resize(static_cast<size_t>(n_batch_ * config.routing.top_k));
  used_.resize(static_cast<size_t>((shape.n_ctx + n_batch_ - 1) / n_batch_) * n_experts);
}

int64_t DecoupledRoutes::bytes(const ModelConfig& config, const EngineShape& shape) {
  const int64_t batches = (shape.n_ctx + shape.n_batch - 1) / shape.n_batch;
  const int64_t n_experts = config.routing.n_experts;
  return DecoupledState::bytes(shape.router->shape, shape.n_ctx, shape.n_batch) +
         shape.n_ctx * n_experts * int64_t{sizeof(float)} +
         shape.n_batch * config.routing.top_k * int64_t{sizeof(ExpertId)} + batches * n_experts;
}

std::unique_ptr<DecoupledRoutes> make_decoupled_routes(const ModelConfig& config,
                                                       const EngineShape& shape, Device& device) {
  if (!shape.router) return nullptr;
  const int64_t bytes = DecoupledRoutes::bytes(config, shape);
  device.host_buffer(bytes, "router");
  if (device.info().counts_only) return nullptr;
  try {
    return std::make_unique<DecoupledRoutes>(config, shape);
  } catch (const std::bad_alloc&) {
    throw HostMemoryError(
        fmt::format("router: cannot allocate {:.2f} GiB of host memory", std::ldexp(bytes, -30)));
  }
}

DecoupledRoutes::Known DecoupledRoutes::know(std::span<const int32_t> tokens, int64_t position,
                                             ParallelFor parallel,
                                             const std::function<bool()>& go_on) {
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t n_experts = config_.routing.n_experts;
  state_.rewind(position);
  first_ = position;
  n_batches_ = (n + n_batch_ - 1) / n_batch_;
  batch_ = 0;
  layer_ = -1;
  news_ = true;
  std::fill(used_.begin(), used_.end(), 0);
  for (int64_t from = 0; from < n;) {
    if (go_on && !go_on()) return Known::kStopped;
    // Never of two batches.
    const int64_t some = std::min({n - from, n_batch_ - from % n_batch_, kTokensAtOnce});
    const auto part = tokens.subspan(static_cast<size_t>(from), static_cast<size_t>(some));
    const std::span<const float> logits = state_.append(part, parallel);
    std::ranges::copy(logits, logits_.begin() + (position + from) * n_experts);
    const auto chosen = std::span(chosen_).first(static_cast<size_t>(some * config_.routing.top_k));
    if (!router_.select(logits.data(), static_cast<int32_t>(some), chosen)) {
      return Known::kNotFinite;
    }
    for (const ExpertId expert : chosen) used_[index(from / n_batch_, expert)] = 1;
    from += some;
  }
  return Known::kAll;
}

void DecoupledRoutes::visit(const Batch& batch, LayerId layer) {
  batch_ = (batch.first_pos - first_) / n_batch_;
  TANDEM_CHECK(batch.first_pos >= first_ && batch_ < n_batches_, "tokens at %lld",
               static_cast<long long>(batch.first_pos));
  news_ = layer_ < 0;
  layer_ = layer.value;
}

const float* DecoupledRoutes::logits(const Batch& batch) const {
  return logits_.data() + batch.first_pos * config_.routing.n_experts;
}

double DecoupledRoutes::next_use(ExpertKey key) const {
  const auto n_layers = static_cast<int64_t>(layers_.size());
  const int64_t further = key.layer.value - layer_;
  for (int64_t b = batch_ + (further > 0 ? 0 : 1); b < n_batches_; ++b) {
    if (used_[index(b, key.expert)] == 0) continue;
    return static_cast<double>((b - batch_) * n_layers + further);
  }
  return std::numeric_limits<double>::infinity();
}

std::span<const LayerId> DecoupledRoutes::reordered() const {
  return news_ ? std::span<const LayerId>(layers_) : std::span<const LayerId>{};
}

}  // namespace tandem
