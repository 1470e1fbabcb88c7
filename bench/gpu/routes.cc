#include "bench/gpu/routes.h"

#include <algorithm>
#include <cmath>

#include "scheduler/synthetic_trace.h"

namespace tandem {

TraceRoutes::TraceRoutes(const ModelConfig& config, int32_t tokens) {
  SyntheticTraceSettings settings;
  settings.n_layers = static_cast<int32_t>(config.n_layers);
  settings.n_experts = config.routing.n_experts;
  settings.top_k = config.routing.top_k;
  settings.n_sequences = 1;
  settings.n_prompt = 0;
  settings.n_decode = tokens;
  trace_ = make_synthetic_trace(settings);
  for (float& weight : trace_.weights) weight = std::log(weight);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(-20, 1);  // below the log of any weight that counts
  low_.resize(static_cast<size_t>(settings.n_experts));
  for (float& f : low_) f = normal(rng);
}

void TraceRoutes::next(std::span<float> logits) {
  const TraceHeader& header = trace_.header;
  const auto n_experts = static_cast<size_t>(header.n_experts);
  const auto layer = static_cast<int32_t>(at_ % header.n_layers);
  const int64_t token = at_ / header.n_layers % trace_.n_tokens();
  for (size_t ahead = 0; ahead * n_experts < logits.size(); ++ahead) {
    const auto row = logits.subspan(ahead * n_experts, n_experts);
    std::copy(low_.begin(), low_.end(), row.begin());
    if (ahead > 0) {
      float value = 0;
      for (const int16_t id : trace_.predicted_of(token, layer, static_cast<int32_t>(ahead))) {
        if (id >= 0) row[static_cast<size_t>(id)] = value -= 0.1F;
      }
      continue;
    }
    const auto ids = trace_.ids_of(token, layer);
    const auto logs = trace_.weights_of(token, layer);
    for (size_t i = 0; i < ids.size(); ++i) row[static_cast<size_t>(ids[i])] = logs[i];
  }
  ++at_;
}

RandomRoutes::RandomRoutes() : drawn_(1 << 20) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 2);
  for (float& f : drawn_) f = normal(rng);
}

void RandomRoutes::next(std::span<float> logits) {
  if (at_ + logits.size() > drawn_.size()) at_ = 0;
  std::copy_n(drawn_.begin() + static_cast<std::ptrdiff_t>(at_), logits.size(), logits.begin());
  at_ += logits.size();
}

}  // namespace tandem
