// Which expert would have done most of what a token's activations did: what the router is trained
// on. Read-ME's published code (arXiv 2410.19123, section 3.2): in each layer the overlap of the
// activations, thresholded at five nested levels, with each expert's own channels; centred over the
// experts, times 10, softmax. A token's row is the mean over layers.
//
// Here activations count by magnitude, as for the masks (Read-ME: with their sign, so that a
// channel that is strongly negative would choose against the mask that holds it), and overlap is a
// share of the thresholded channels, so that its scale does not depend on the model's width.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/refactor/masks.h"

namespace tandem {

class RouteTargets {
 public:
  static constexpr int64_t kLevels = 5;       // of the kept / 5, 2 kept / 5, ..., kept largest
  static constexpr double kSharpness = 10.0;  // of the softmax

  // masks: outlive this; at most kMostDomains experts. max_tokens: of a window.
  RouteTargets(const ExpertMasks& masks, int64_t max_tokens);

  // A window: begin, every layer's hidden [n, ff] in any order, rows.
  void begin(int64_t n);
  void add(int64_t layer, const float* hidden, ParallelFor parallel);
  // [n, n_experts], each sums to 1: appended to *to.
  void append_rows(std::vector<float>* to) const;

 private:
  void add_token(int64_t layer, const float* hidden, int64_t t);

  const ExpertMasks& masks_;
  std::vector<uint64_t> owners_;  // [layers, ff]: bit e: the channel is one of expert e's own
  std::vector<uint64_t> keys_;    // [max_tokens, ff]
  std::vector<double> sums_;      // [max_tokens, n_experts]
  int64_t n_ = 0;
  int64_t layers_ = 0;  // added
};

}  // namespace tandem
