// The dense feed-forward network with an expert's channels only, each token with its own expert:
// what the refactored model computes. Residual first, then the expert, each a sum of its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/refactor/dense_forward.h"
#include "runtime/refactor/masks.h"

namespace tandem {

class MaskedFfn {
 public:
  // All outlive this. max_tokens: of a call.
  MaskedFfn(const DenseModel& model, const ExpertMasks& masks, int64_t max_tokens,
            FloatProduct* product);

  // out[t] = down[:, residual] hidden[t, residual] + down[:, e] hidden[t, e], with e the channels
  // of expert experts[t]. x, out: [experts.size(), d].
  void run(int64_t layer, std::span<const int32_t> experts, const float* x, float* out,
           ParallelFor parallel);

 private:
  // Rows `tokens` of hidden_, columns `channels`, times those of down: added to out.
  void add_part(const WeightView& down, std::span<const int32_t> channels,
                std::span<const int32_t> tokens, float* out, ParallelFor parallel);

  const DenseModel& model_;
  const ExpertMasks& masks_;
  FloatProduct* product_;
  std::vector<float> hidden_;       // [max_tokens, ff]
  std::vector<float> gathered_;     // [max_tokens, channels of a part]
  std::vector<float> products_;     // [max_tokens, d]
  std::vector<std::byte> columns_;  // down's, of a part
  std::vector<int32_t> tokens_;
};

}  // namespace tandem
