#include "runtime/engine/gate_reuse.h"

#include <algorithm>

#include "kernels/dense.h"
#include "kernels/elementwise.h"

namespace tandem {

GateReuse::GateReuse(const ModelConfig& config, const DeviceWeights& weights, Device& device,
                     ThreadPool& pool, const Lookahead& lookahead, int64_t n_batch)
    : config_(config),
      weights_(weights),
      device_(device),
      pool_(pool),
      lookahead_(lookahead),
      normed_(lookahead.count > 0 ? device.alloc(n_batch * config.d_model * kFloat, "activations")
                                  : DeviceAddr{}) {
  touches_.reserve(3 + 2 * static_cast<size_t>(lookahead.count));
}

int32_t GateReuse::reachable(int64_t layer) const {
  const int64_t behind = config_.n_layers - layer - lookahead_.first;
  return static_cast<int32_t>(std::clamp<int64_t>(behind, 0, lookahead_.count));
}

void GateReuse::launch(int64_t layer, DeviceAddr residual, int64_t n, DeviceAddr logits) {
  const int32_t count = reachable(layer);
  if (count == 0) return;
  const int64_t d = config_.d_model;
  const int64_t n_experts = config_.routing.n_experts;
  touches_.assign({Touch{residual, n * d * kFloat, false}, Touch{normed_, n * d * kFloat, true},
                   Touch{logits, count * n * n_experts * kFloat, true}});
  const auto target = [&](int32_t i) -> const DeviceLayer& {
    return weights_.layer(layer + lookahead_.first + i);
  };
  int64_t bytes = 0;
  for (int32_t i = 0; i < count; ++i) {
    touches_.push_back(read_of(target(i).router));
    touches_.push_back(read_of(target(i).ffn_norm));
    bytes += target(i).router.bytes() + n * (2 * d + n_experts) * kFloat;
  }
  device_.launch(
      Stream::kCompute,
      {"gate_reuse", touches_, bytes, 2 * count * n * d * n_experts, [&](const KernelScope& scope) {
         const float* x = scope.read_as<float>(residual, n * d);
         float* normed = scope.write_as<float>(normed_, n * d);
         for (int32_t i = 0; i < count; ++i) {
           const DeviceLayer& to = target(i);
           rms_norm(x, d, scope.read_as<float>(to.ffn_norm.at, to.ffn_norm.n), config_.rms_eps, n,
                    d, normed, d);
           float* out = scope.write_as<float>(logits + i * n * n_experts * kFloat, n * n_experts);
           const MatmulPart part{scope.read(to.router), nullptr, out};
           matmul({&part, 1}, normed, n, pool_.workspace(), pool_);
         }
       }});
}

}  // namespace tandem
