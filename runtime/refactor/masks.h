// Which channels of a dense feed-forward network make which expert: those that are most active on a
// domain's text. Read-ME (arXiv 2410.19123, section 3.1, and its published code): channels by their
// mean |input of down_proj|, the largest of each domain are its mask, what all masks share is kept
// apart. Here all experts of all layers have one width, as GGUF's expert tensors need.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/parallel.h"

namespace tandem {

// Sums of |hidden| over a domain's tokens, in double.
class ChannelMeans {
 public:
  ChannelMeans(int32_t n_domains, int64_t n_layers, int64_t ff);

  // hidden: [n, ff]. The same sums on any number of threads.
  void add(int32_t domain, int64_t layer, const float* hidden, int64_t n, ParallelFor parallel);
  // After the last layer of each window.
  void count(int32_t domain, int64_t n) { tokens_[static_cast<size_t>(domain)] += n; }

  int32_t n_domains() const { return n_domains_; }
  int64_t n_layers() const { return n_layers_; }
  int64_t ff() const { return ff_; }
  int64_t tokens(int32_t domain) const { return tokens_[static_cast<size_t>(domain)]; }
  // [ff]
  std::vector<double> means(int32_t domain, int64_t layer) const;

 private:
  int32_t n_domains_;
  int64_t n_layers_;
  int64_t ff_;
  std::vector<double> sums_;  // [domains, layers, ff]
  std::vector<int64_t> tokens_;
};

// Channels in ascending order.
struct LayerChannels {
  std::vector<int32_t> residual;              // R, of every expert
  std::vector<std::vector<int32_t>> experts;  // W each, of one alone or of several
};

struct ExpertMasks {
  int64_t ff = 0;
  int64_t kept = 0;      // N: channels of a mask
  int64_t residual = 0;  // R: of them, those that stand apart; may be 0
  int64_t width = 0;     // W = N - R
  std::vector<LayerChannels> layers;

  int32_t n_experts() const { return static_cast<int32_t>(layers.front().experts.size()); }
};

inline constexpr int64_t kChannelStep = 32;  // N and R are multiples
inline constexpr int32_t kMostDomains = 64;

// N: the share of ff to the nearest multiple of 32, 64 at least (R leaves an expert 32).
// ConfigError when ff is less than that.
int64_t kept_channels(double share, int64_t ff);

// Masks have exactly `kept` channels, ties going to the lower id. R is the size of the smallest
// intersection of all masks over the layers, rounded down to a multiple of 32, and at most
// kept - 32. A layer's residual is the R channels of the intersection whose least mean over the
// domains is largest.
ExpertMasks choose_masks(const ChannelMeans& means, int64_t kept);

// Share of a mask's channels that another's has, too: mean over pairs and layers.
double mask_overlap(const ExpertMasks& masks);

}  // namespace tandem
