#include "runtime/refactor/masked_ffn.h"

#include <algorithm>
#include <numeric>

#include "kernels/elementwise.h"

namespace tandem {

MaskedFfn::MaskedFfn(const DenseModel& model, const ExpertMasks& masks, int64_t max_tokens,
                     FloatProduct* product)
    : model_(model),
      masks_(masks),
      product_(product),
      hidden_(static_cast<size_t>(max_tokens * model.ff())),
      gathered_(static_cast<size_t>(max_tokens * std::max(masks.residual, masks.width))),
      products_(static_cast<size_t>(max_tokens * model.config().d_model)) {}

void MaskedFfn::add_part(const WeightView& down, std::span<const int32_t> channels,
                         std::span<const int32_t> tokens, float* out, ParallelFor parallel) {
  if (channels.empty() || tokens.empty()) return;
  float* to = gathered_.data();
  for (const int32_t token : tokens) {
    const float* row = hidden_.data() + token * model_.ff();
    for (const int32_t channel : channels) *to++ = row[channel];
  }
  const WeightView part = gather_columns(down, channels, &columns_);
  (*product_)(part, gathered_.data(), static_cast<int64_t>(tokens.size()), products_.data(),
              parallel);
  const int64_t d = down.rows;
  for (size_t i = 0; i < tokens.size(); ++i) {
    add(products_.data() + static_cast<int64_t>(i) * d, d, out + tokens[i] * d);
  }
}

void MaskedFfn::run(int64_t layer, std::span<const int32_t> experts, const float* x, float* out,
                    ParallelFor parallel) {
  const DenseLayer& w = model_.layers()[static_cast<size_t>(layer)];
  const LayerChannels& channels = masks_.layers[static_cast<size_t>(layer)];
  const auto n = static_cast<int64_t>(experts.size());
  ffn_hidden(w.gate, w.up, x, n, product_, hidden_.data(), parallel);
  std::fill_n(out, n * w.down.rows, 0.0F);
  tokens_.resize(experts.size());
  std::iota(tokens_.begin(), tokens_.end(), 0);
  add_part(w.down, channels.residual, tokens_, out, parallel);
  for (int32_t e = 0; e < masks_.n_experts(); ++e) {
    tokens_.clear();
    for (int32_t t = 0; t < static_cast<int32_t>(n); ++t) {
      if (experts[static_cast<size_t>(t)] == e) tokens_.push_back(t);
    }
    add_part(w.down, channels.experts[static_cast<size_t>(e)], tokens_, out, parallel);
  }
}

}  // namespace tandem
