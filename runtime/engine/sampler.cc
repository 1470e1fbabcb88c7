#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace tandem {

Sampler::Sampler(const SamplingSettings& settings, int64_t n_vocab, int64_t n_ctx)
    : settings_(settings),
      random_(settings.seed),
      history_(static_cast<size_t>(settings.repeat_last_n < 0 ? n_ctx : settings.repeat_last_n)),
      seen_(static_cast<size_t>(n_vocab), 0) {
  candidates_.reserve(static_cast<size_t>(n_vocab));
}

void Sampler::accept(int32_t token) {
  if (history_.empty()) return;
  history_[accepted_ % history_.size()] = token;
  ++accepted_;
}

int32_t Sampler::sample(std::span<const float> logits) {
  TANDEM_CHECK(logits.size() == seen_.size(), "%zu logits, %zu tokens", logits.size(),
               seen_.size());
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_.push_back({static_cast<int32_t>(i), logits[i], 0.0F});
  }
  penalize();
  if (settings_.temperature <= 0.0F) {
    return std::max_element(
               candidates_.begin(), candidates_.end(),
               [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; })
        ->token;
  }
  keep_top_k();
  keep_top_p();
  keep_min_p();
  // Relative to the best: a quotient by a tiny temperature overflows to -inf, never to inf.
  const float top = candidates_.front().logit;
  for (Candidate& candidate : candidates_) {
    candidate.logit = (candidate.logit - top) / settings_.temperature;
  }
  return draw();
}

// Keskar et al., arXiv 1909.05858: positive logits are divided, negative ones multiplied.
void Sampler::penalize() {
  if (settings_.repeat_penalty == 1.0F) return;
  const size_t n = std::min(accepted_, history_.size());
  for (size_t i = 0; i < n; ++i) seen_[static_cast<size_t>(history_[i])] = 1;
  for (Candidate& candidate : candidates_) {
    if (seen_[static_cast<size_t>(candidate.token)] == 0) continue;
    candidate.logit = candidate.logit > 0 ? candidate.logit / settings_.repeat_penalty
                                          : candidate.logit * settings_.repeat_penalty;
  }
  for (size_t i = 0; i < n; ++i) seen_[static_cast<size_t>(history_[i])] = 0;
}

void Sampler::keep_top_k() {
  const size_t k = settings_.top_k <= 0
                       ? candidates_.size()
                       : std::min(candidates_.size(), static_cast<size_t>(settings_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k),
                    candidates_.end(), [](const Candidate& a, const Candidate& b) {
                      return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
                    });
  candidates_.resize(k);
}

void Sampler::softmax() {
  const float top = candidates_.front().logit;
  float sum = 0.0F;
  for (Candidate& candidate : candidates_) {
    sum += candidate.probability = std::exp(candidate.logit - top);
  }
  for (Candidate& candidate : candidates_) candidate.probability /= sum;
}

void Sampler::keep_top_p() {
  if (settings_.top_p >= 1.0F) return;
  softmax();
  float sum = 0.0F;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || sum < settings_.top_p)) {
    sum += candidates_[kept++].probability;
  }
  candidates_.resize(kept);
}

void Sampler::keep_min_p() {
  if (settings_.min_p <= 0.0F) return;
  const float least = candidates_.front().logit + std::log(settings_.min_p);
  size_t kept = 1;
  while (kept < candidates_.size() && candidates_[kept].logit >= least) ++kept;
  candidates_.resize(kept);
}

int32_t Sampler::draw() {
  softmax();
  // 24 random bits make a float in [0, 1) the same way on every platform.
  float left = static_cast<float>(random_() >> 8) * 0x1p-24F;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.probability;
    if (left < 0.0F) return candidate.token;
  }
  return candidates_.back().token;
}

}  // namespace tandem
