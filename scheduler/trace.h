// A routing trace: which experts every token of every layer used, with their gate weights and,
// where they were recorded, what a lookahead predicted. Immutable once built; any thread may read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/types.h"

namespace tandem {

struct TraceHeader {
  std::string model;       // a name for people
  std::string model_hash;  // of the router tensors; empty where it is not known
  int32_t n_layers = 0;    // layers with routed experts
  int32_t n_experts = 0;
  int32_t top_k = 0;
  int32_t n_ranks = 0;  // experts recorded for a token, at least top_k: the best ones not chosen
  int32_t n_ahead = 0;  // layers ahead that predictions reach, 0: none recorded
  std::vector<int64_t> expert_bytes;  // [n_layers], or empty where it is not known
  std::string lookahead = "none";     // who predicted: "none" without predictions, see below
};

// Who predicts. Any other name of small letters, digits and hyphens may stand there as well.
struct LookaheadName {
  static constexpr const char* kNone = "none";
  static constexpr const char* kGateReuse = "gate-reuse";  // later layers' gates on this residual
  static constexpr const char* kLinear = "linear";         // fitted, runtime/pregate
  static constexpr const char* kDecoupled = "decoupled";   // a router before the layers: the truth
  static constexpr const char* kSynthetic = "synthetic";   // the truth with errors
  static constexpr const char* kUnknown = "unknown";       // of a file that does not say
};

// What a trace may hold at most; readers refuse more, so that sizes cannot overflow.
struct TraceLimits {
  static constexpr int32_t kLayers = 4096;
  static constexpr int32_t kExperts = 4096;
  static constexpr int32_t kTopK = 64;
  static constexpr int32_t kRanks = 256;
  static constexpr int32_t kAhead = 8;
  static constexpr size_t kLookaheadName = 32;  // bytes
  static constexpr float kWeight = 65504.0F;    // the largest half-precision number
};

// The tokens that one step of the recording put through the model together.
struct TraceStep {
  int32_t sequence = 0;  // steps of one sequence stand together, in order
  bool prefill = false;
  int64_t first_token = 0;  // row of the arrays below
  int32_t n_tokens = 0;
};

// All arrays are [token][layer][...] over all tokens of the trace. A token that did not pass a
// layer (the last layer of a prompt, where only the last token's output is wanted) has ids of -1.
class Trace {
 public:
  TraceHeader header;
  std::vector<TraceStep> steps;
  std::vector<int16_t> ids;    // [n_tokens, n_layers, n_ranks], heaviest first; -1: none
  std::vector<float> weights;  // the same shape: the gate's score over all experts where that is
                               // known, else the weight that the token gives the expert
  std::vector<int16_t> predicted;  // [n_tokens, n_layers, n_ahead, top_k]: what was predicted *at*
                                   // this layer for the layers after it; -1: none

  int64_t n_tokens() const {
    return steps.empty() ? 0 : steps.back().first_token + steps.back().n_tokens;
  }
  // [n_ranks]; the first top_k are the selection.
  std::span<const int16_t> ids_of(int64_t token, int32_t layer) const {
    return std::span(ids).subspan(row(token, layer), static_cast<size_t>(header.n_ranks));
  }
  std::span<const float> weights_of(int64_t token, int32_t layer) const {
    return std::span(weights).subspan(row(token, layer), static_cast<size_t>(header.n_ranks));
  }
  // ahead: 1 for the next layer.
  std::span<const int16_t> predicted_of(int64_t token, int32_t layer, int32_t ahead) const {
    const size_t k = static_cast<size_t>(header.top_k);
    const size_t at = (static_cast<size_t>(token) * static_cast<size_t>(header.n_layers) +
                       static_cast<size_t>(layer)) *
                          static_cast<size_t>(header.n_ahead) +
                      static_cast<size_t>(ahead - 1);
    return std::span(predicted).subspan(at * k, k);
  }

 private:
  size_t row(int64_t token, int32_t layer) const {
    return (static_cast<size_t>(token) * static_cast<size_t>(header.n_layers) +
            static_cast<size_t>(layer)) *
           static_cast<size_t>(header.n_ranks);
  }
};

}  // namespace tandem
