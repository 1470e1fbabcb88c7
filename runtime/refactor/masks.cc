#include "runtime/refactor/masks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "kernels/check.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr int64_t kChannelsOfTask = 256;

// The n ids of largest score, ties to the lower id, in ascending order.
std::vector<int32_t> largest(std::vector<int32_t> ids, const std::vector<double>& scores,
                             int64_t n) {
  const auto before = [&](int32_t a, int32_t b) {
    const double x = scores[static_cast<size_t>(a)];
    const double y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  TANDEM_CHECK(std::ssize(ids) >= n, "%zu of %lld", ids.size(), static_cast<long long>(n));
  std::nth_element(ids.begin(), ids.begin() + n, ids.end(), before);
  ids.resize(static_cast<size_t>(n));
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<int32_t> intersection(const std::vector<std::vector<int32_t>>& masks) {
  std::vector<int32_t> common = masks.front();
  for (const std::vector<int32_t>& mask : masks) {
    std::vector<int32_t> next;
    std::set_intersection(common.begin(), common.end(), mask.begin(), mask.end(),
                          std::back_inserter(next));
    common = std::move(next);
  }
  return common;
}

// What one layer's means say.
struct LayerMasks {
  std::vector<std::vector<int32_t>> masks;  // one a domain
  std::vector<double> least;                // [ff], the smallest mean of the domains
};

LayerMasks layer_masks(const ChannelMeans& means, int64_t layer, int64_t kept) {
  const auto ff = static_cast<size_t>(means.ff());
  std::vector<int32_t> all(ff);
  std::iota(all.begin(), all.end(), 0);
  LayerMasks result;
  result.least.assign(ff, std::numeric_limits<double>::infinity());
  for (int32_t domain = 0; domain < means.n_domains(); ++domain) {
    const std::vector<double> scores = means.means(domain, layer);
    result.masks.push_back(largest(all, scores, kept));
    for (size_t c = 0; c < ff; ++c) result.least[c] = std::min(result.least[c], scores[c]);
  }
  return result;
}

}  // namespace

ChannelMeans::ChannelMeans(int32_t n_domains, int64_t n_layers, int64_t ff)
    : n_domains_(n_domains),
      n_layers_(n_layers),
      ff_(ff),
      sums_(static_cast<size_t>(n_domains * n_layers * ff)),
      tokens_(static_cast<size_t>(n_domains)) {}

void ChannelMeans::add(int32_t domain, int64_t layer, const float* hidden, int64_t n,
                       ParallelFor parallel) {
  double* sums = sums_.data() + (domain * n_layers_ + layer) * ff_;
  parallel((ff_ + kChannelsOfTask - 1) / kChannelsOfTask, [&](int64_t task) {
    const int64_t first = task * kChannelsOfTask;
    const int64_t end = std::min(first + kChannelsOfTask, ff_);
    for (int64_t t = 0; t < n; ++t) {
      const float* row = hidden + t * ff_;
      for (int64_t c = first; c < end; ++c) sums[c] += std::abs(row[c]);
    }
  });
}

std::vector<double> ChannelMeans::means(int32_t domain, int64_t layer) const {
  const double* sums = sums_.data() + (domain * n_layers_ + layer) * ff_;
  std::vector<double> result(sums, sums + ff_);
  const auto n = static_cast<double>(std::max<int64_t>(tokens(domain), 1));
  for (double& mean : result) mean /= n;
  return result;
}

int64_t kept_channels(double share, int64_t ff) {
  constexpr int64_t kLeast = 2 * kChannelStep;
  if (ff < kLeast) {
    throw ConfigError(
        fmt::format("the model's feed_forward_length is {}; expected at least {} to "
                    "make experts of",
                    ff, kLeast));
  }
  const auto steps = std::llround(share * static_cast<double>(ff) / kChannelStep);
  const int64_t most = ff / kChannelStep * kChannelStep;
  return std::clamp<int64_t>(steps * kChannelStep, kLeast, most);
}

ExpertMasks choose_masks(const ChannelMeans& means, int64_t kept) {
  ExpertMasks result;
  result.ff = means.ff();
  result.kept = kept;
  result.residual = kept - kChannelStep;
  for (int64_t layer = 0; layer < means.n_layers(); ++layer) {
    const auto common = std::ssize(intersection(layer_masks(means, layer, kept).masks));
    result.residual = std::min<int64_t>(result.residual, common / kChannelStep * kChannelStep);
  }
  result.width = kept - result.residual;
  for (int64_t layer = 0; layer < means.n_layers(); ++layer) {
    const LayerMasks chosen = layer_masks(means, layer, kept);
    LayerChannels channels;
    channels.residual = largest(intersection(chosen.masks), chosen.least, result.residual);
    for (const std::vector<int32_t>& mask : chosen.masks) {
      std::vector<int32_t>& own = channels.experts.emplace_back();
      std::set_difference(mask.begin(), mask.end(), channels.residual.begin(),
                          channels.residual.end(), std::back_inserter(own));
    }
    result.layers.push_back(std::move(channels));
  }
  return result;
}

double mask_overlap(const ExpertMasks& masks) {
  double sum = 0;
  int64_t pairs = 0;
  for (const LayerChannels& layer : masks.layers) {
    for (size_t a = 0; a < layer.experts.size(); ++a) {
      for (size_t b = 0; b < a; ++b, ++pairs) {
        const auto common = std::ssize(intersection({layer.experts[a], layer.experts[b]}));
        sum += static_cast<double>(common + masks.residual) / static_cast<double>(masks.kept);
      }
    }
  }
  return pairs == 0 ? 1 : sum / static_cast<double>(pairs);
}

}  // namespace tandem
