// Routes of a model whose experts are chosen before its layers, from token ids (Read-ME, arXiv
// 2410.19123): known for all tokens that were given, whatever batches they are read in. So what the
// layers of this step and the batches behind it will use is no guess, and eviction may look at it.
// Called by the thread that runs the step loop. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"
#include "kernels/parallel.h"
#include "runtime/device/device.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/model/model_config.h"
#include "runtime/pregate/decoupled_router.h"
#include "scheduler/executor.h"
#include "scheduler/routing.h"

namespace tandem {

class DecoupledRoutes final : public FutureUses {
 public:
  DecoupledRoutes(const ModelConfig& config, const EngineShape& shape);
  // Host memory that one takes, beside the router's weights.
  static int64_t bytes(const ModelConfig& config, const EngineShape& shape);

  enum class Known : uint8_t { kAll, kStopped, kNotFinite };
  // Tokens of the sequence from `position` on, which will be read in batches of n_batch; all before
  // were given before. Forgets what was known behind it. go_on: asked every few tokens; where it
  // says false nothing is known from `position` on. kNotFinite: a logit is not finite.
  Known know(std::span<const int32_t> tokens, int64_t position, ParallelFor parallel = serial_for,
             const std::function<bool()>& go_on = {});
  // A layer of a batch is next; the same batch's layers come in order.
  void visit(const Batch& batch, LayerId layer);
  // Of a batch's tokens, [n, n_experts].
  const float* logits(const Batch& batch) const;

  double next_use(ExpertKey key) const override;
  // Every layer, when tokens have become known since the visit before.
  std::span<const LayerId> reordered() const override;

 private:
  size_t index(int64_t batch, ExpertId expert) const {
    return static_cast<size_t>(batch * config_.routing.n_experts + expert.value);
  }

  const ModelConfig& config_;
  int64_t n_batch_;
  DecoupledState state_;
  Router router_;
  std::vector<LayerId> layers_;
  std::vector<float> logits_;     // [n_ctx, n_experts] of the tokens that are known
  std::vector<ExpertId> chosen_;  // [n_batch, top_k]
  std::vector<uint8_t> used_;     // [batches, n_experts] of the tokens that were given last
  int64_t first_ = 0;             // of these tokens' positions
  int64_t n_batches_ = 0;
  int64_t batch_ = 0;  // now
  int32_t layer_ = 0;
  bool news_ = false;
};

// Null where layers have routers of their own, and where the device only counts what it would hold.
// MemoryError when the host is too small.
std::unique_ptr<DecoupledRoutes> make_decoupled_routes(const ModelConfig& config,
                                                       const EngineShape& shape, Device& device);

}  // namespace tandem
