#include "runtime/pregate/expert_tables.h"

#include <algorithm>
#include <cmath>

#include "kernels/quant.h"
#include "scheduler/routing.h"

namespace tandem {

int64_t TokenTable::row(int32_t token) const {
  const auto at = std::lower_bound(ids.begin(), ids.end(), token);
  return at != ids.end() && *at == token ? at - ids.begin() : -1;
}

const PairLink* ExpertTables::pair(int32_t source, int32_t distance) const {
  for (const PairLink& link : pairs) {
    if (link.source == source && link.distance == distance) return &link;
  }
  return nullptr;
}

void log_odds(std::span<const float> rates, std::span<float> out) {
  constexpr float kLeast = 1e-4F;
  for (size_t e = 0; e < rates.size(); ++e) {
    const float p = std::clamp(rates[e], kLeast, 1 - kLeast);
    out[e] = std::log(p / (1 - p));
  }
}

void pair_scores(const PairLink& link, std::span<const float> base, std::span<const ExpertId> used,
                 std::span<float> scores, std::span<float> scratch) {
  const size_t n = base.size();
  std::copy(base.begin(), base.end(), scores.begin());
  for (const ExpertId expert : used) {
    const uint16_t* row = link.adds.data() + static_cast<size_t>(expert.value) * n;
    dequantize(DType::kF16, reinterpret_cast<const std::byte*>(row), scratch.data(),
               static_cast<int64_t>(n));
    for (size_t e = 0; e < n; ++e) scores[e] += scratch[e];
  }
}

void calibrated_use(float scale, float offset, int32_t top_k, std::span<const float> logits,
                    std::span<float> use, std::span<float> scratch) {
  constexpr float kNever = -6;  // P is below a four-hundredth: not worth an exponential
  const float middle = selection_middle(logits, top_k, scratch);
  for (size_t e = 0; e < logits.size(); ++e) {
    const float z = scale * (logits[e] - middle) + offset;
    use[e] = z > kNever ? 1 / (1 + std::exp(-z)) : 0;
  }
}

void token_use(const ExpertTables& tables, int32_t layer, int64_t row, std::span<float> use) {
  const std::vector<float>& hot = tables.hot[static_cast<size_t>(layer)];
  if (row < 0) {
    std::copy(hot.begin(), hot.end(), use.begin());
    return;
  }
  std::fill(use.begin(), use.end(), -1.0F);
  const auto n = static_cast<size_t>(listed_experts(tables.n_experts, tables.top_k));
  const size_t first =
      (static_cast<size_t>(row) * tables.hot.size() + static_cast<size_t>(layer)) * n;
  for (size_t i = first; i < first + n; ++i) {
    use[tables.tokens.experts[i]] = static_cast<float>(tables.tokens.use[i]) / 255;
  }
  share_rest(hot, static_cast<float>(tables.top_k), use);
}

void share_rest(std::span<const float> rates, float total, std::span<float> use) {
  float rest = total;
  float rate = 0;  // of those that share it
  for (size_t e = 0; e < use.size(); ++e) {
    if (use[e] < 0) {
      rate += rates[e];
    } else {
      rest -= use[e];
    }
  }
  const float share = rate > 0 ? std::max(rest, 0.0F) / rate : 0;
  for (size_t e = 0; e < use.size(); ++e) {
    if (use[e] < 0) use[e] = std::min(share * rates[e], 1.0F);
  }
}

void largest(std::span<const float> values, std::span<ExpertId> ids) {
  size_t n = 0;
  for (size_t e = 0; e < values.size(); ++e) {
    const auto value_of = [&](size_t i) { return values[static_cast<size_t>(ids[i].value)]; };
    if (n == ids.size() && !(values[e] > value_of(n - 1))) continue;
    if (n < ids.size()) ++n;
    size_t at = n - 1;
    for (; at > 0 && values[e] > value_of(at - 1); --at) ids[at] = ids[at - 1];
    ids[at] = ExpertId{static_cast<int32_t>(e)};
  }
}

}  // namespace tandem
