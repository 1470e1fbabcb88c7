#include "runtime/refactor/route_targets.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/check.h"

namespace tandem {
namespace {

// Orders by magnitude, ties to the lower channel: finite floats' bits without the sign order as
// they do.
uint64_t key_of(float hidden, int64_t channel) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(hidden) & 0x7FFFFFFFU;
  return uint64_t{magnitude} << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(channel));
}

int64_t channel_of(uint64_t key) { return 0xFFFFFFFFU - static_cast<uint32_t>(key); }

// Of values at [0, n), in place: softmax of kSharpness times their distance from the mean.
void sharpen(double* values, int32_t n) {
  const double mean = std::accumulate(values, values + n, 0.0) / n;
  double sum = 0;
  for (int32_t e = 0; e < n; ++e) {
    values[e] = std::exp(RouteTargets::kSharpness * (values[e] - mean));
    sum += values[e];
  }
  for (int32_t e = 0; e < n; ++e) values[e] /= sum;
}

}  // namespace

RouteTargets::RouteTargets(const ExpertMasks& masks, int64_t max_tokens)
    : masks_(masks),
      owners_(masks.layers.size() * static_cast<size_t>(masks.ff)),
      keys_(static_cast<size_t>(max_tokens * masks.ff)),
      sums_(static_cast<size_t>(max_tokens * masks.n_experts())) {
  TANDEM_CHECK(masks.n_experts() <= kMostDomains, "%d experts", masks.n_experts());
  for (size_t layer = 0; layer < masks.layers.size(); ++layer) {
    uint64_t* owners = owners_.data() + static_cast<int64_t>(layer) * masks.ff;
    for (int32_t e = 0; e < masks.n_experts(); ++e) {
      for (const int32_t channel : masks.layers[layer].experts[static_cast<size_t>(e)]) {
        owners[channel] |= uint64_t{1} << e;
      }
    }
  }
}

void RouteTargets::begin(int64_t n) {
  n_ = n;
  layers_ = 0;
  std::fill(sums_.begin(), sums_.end(), 0.0);
}

void RouteTargets::add_token(int64_t layer, const float* hidden, int64_t t) {
  const int64_t ff = masks_.ff;
  const int32_t n_experts = masks_.n_experts();
  uint64_t* keys = keys_.data() + t * ff;
  for (int64_t c = 0; c < ff; ++c) keys[c] = key_of(hidden[c], c);
  const uint64_t* owners = owners_.data() + layer * ff;
  std::array<int64_t, kMostDomains> overlap{};
  int64_t counted = 0;
  // From the widest level inwards: what is left in front is the level's largest. A channel counts
  // once for each level that it is in.
  int64_t end = ff;
  for (int64_t level = kLevels; level >= 1; --level) {
    const int64_t size = masks_.kept * level / kLevels;
    if (size < end) std::nth_element(keys, keys + size, keys + end, std::greater<>());
    for (int64_t i = 0; i < size; ++i) {
      for (uint64_t left = owners[channel_of(keys[i])]; left != 0; left &= left - 1) {
        ++overlap[static_cast<size_t>(std::countr_zero(left))];
      }
    }
    counted += size;
    end = size;
  }
  std::array<double, kMostDomains> shares{};
  for (int32_t e = 0; e < n_experts; ++e) {
    const auto i = static_cast<size_t>(e);
    shares[i] = static_cast<double>(overlap[i]) / static_cast<double>(counted);
  }
  sharpen(shares.data(), n_experts);
  for (int32_t e = 0; e < n_experts; ++e) {
    sums_[static_cast<size_t>(t * n_experts + e)] += shares[static_cast<size_t>(e)];
  }
}

void RouteTargets::add(int64_t layer, const float* hidden, ParallelFor parallel) {
  parallel(n_, [&](int64_t t) { add_token(layer, hidden + t * masks_.ff, t); });
  ++layers_;
}

void RouteTargets::append_rows(std::vector<float>* to) const {
  const int64_t n_values = n_ * masks_.n_experts();
  for (int64_t i = 0; i < n_values; ++i) {
    to->push_back(static_cast<float>(sums_[static_cast<size_t>(i)] /
                                     static_cast<double>(std::max<int64_t>(layers_, 1))));
  }
}

}  // namespace tandem
