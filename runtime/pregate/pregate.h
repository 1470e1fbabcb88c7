// A fitted lookahead: for each layer matrices that guess, from what the layer's own router sees,
// the logits of later layers' routers. A guess only moves bytes; the true router decides. Immutable
// once built; any thread may read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/pregate/expert_tables.h"

namespace tandem {

// logits of layer source + distance ~ weight x + bias, or others that select alike, where x [d] is
// the input of the source layer's router: its residual behind attention, normalised, with the
// layer's gain.
struct PregateLink {
  int32_t source = 0;
  int32_t distance = 1;
  std::vector<uint16_t> weight;  // [E, d] IEEE half precision
  std::vector<float> bias;       // [E]
  // P(use) = sigmoid(scale m + offset), where m is how far a logit lies above the middle between
  // the last one that is selected and the first one that is not (Platt, 1999).
  float calib_scale = 1;
  float calib_offset = 0;
  // On prompts that the fit has not seen: the share of a token's experts among the guessed top_k.
  float recall = 0;
  float reuse_recall = 0;  // of the later layer's own router on this layer's residual
};

struct Pregate {
  static constexpr int32_t kMostDistances = 8;

  std::string model;        // a name for people
  std::string router_hash;  // router_hash() of the model that it was fitted for
  int32_t n_layers = 0;
  int32_t n_experts = 0;
  int32_t top_k = 0;
  int32_t d_model = 0;
  int32_t n_distances = 0;
  int64_t training_tokens = 0;
  std::vector<PregateLink> links;        // by source, then distance; those that lead to a layer
  std::optional<ExpertTables> tables{};  // of the same distances

  // distance: 1 … n_distances. Null where that leads behind the last layer.
  const PregateLink* link(int32_t source, int32_t distance) const {
    for (const PregateLink& link : links) {
      if (link.source == source && link.distance == distance) return &link;
    }
    return nullptr;
  }
};

}  // namespace tandem
