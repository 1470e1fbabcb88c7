// Gate reuse: the gates of later layers applied to this layer's residual, each behind its own
// layer's norm. What they say is a guess of what those layers will route, since the residual
// changes slowly from layer to layer (arXiv 2312.17238 shows it for Mixtral).
// Owned by DenseLayers; called by the thread that runs the step loop. Nothing allocates after
// construction.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/device_weights.h"
#include "runtime/model/model_config.h"

namespace tandem {

// Layers ahead: first … first + count - 1. A first of 0 is the layer itself, whose guess must be
// its routing: a check of the path, of no other use.
struct Lookahead {
  int32_t first = 1;
  int32_t count = 0;
};

class GateReuse {
 public:
  // weights: outlive this; so do the others. Allocates device memory where count > 0.
  GateReuse(const ModelConfig& config, const DeviceWeights& weights, Device& device,
            ThreadPool& pool, const Lookahead& lookahead, int64_t n_batch);

  int32_t distances() const { return lookahead_.count; }
  // How many of the distances lead to a layer of the model. They are the first ones.
  int32_t reachable(int64_t layer) const;
  // residual: [n, d] f32; logits: [reachable(layer), n, n_experts] f32. One kernel.
  void launch(int64_t layer, DeviceAddr residual, int64_t n, DeviceAddr logits);

 private:
  const ModelConfig& config_;
  const DeviceWeights& weights_;
  Device& device_;
  ThreadPool& pool_;
  Lookahead lookahead_;
  DeviceAddr normed_;  // [n_batch, d] f32
  std::vector<Touch> touches_;
};

}  // namespace tandem
