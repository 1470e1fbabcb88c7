// From the gate's logits to the experts of each token: the routing seam.
// Stages: bias -> score -> select -> weight -> scale. fp32, descending order, ties to the lower
// id. Pure; buffers are sized once and reused, so that routing never allocates in the step loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/types.h"

namespace tandem {

enum class ScoreFunction { kSoftmax, kSigmoid };

struct RoutingRules {
  int32_t n_experts = 0;
  int32_t top_k = 0;
  ScoreFunction score = ScoreFunction::kSoftmax;
  bool normalize = false;     // divide the chosen weights by their sum
  float scale = 1.0F;         // then multiply by this
  std::vector<float> bias{};  // [n_experts] added for selection only; empty: none
};

// A token's use of an expert. The weight never leaves the token it belongs to.
struct RoutedToken {
  int32_t token;  // row within the batch
  float weight;
};

// An activated expert and its tokens.
struct ExpertLoad {
  ExpertId expert;
  int32_t first = 0;  // of its run in RoutingDecision::tokens
  int32_t count = 0;
};

struct RoutingDecision {
  LayerId layer;
  int32_t n_tokens = 0;
  int32_t top_k = 0;
  std::span<const ExpertId> ids;        // [n_tokens, top_k], heaviest first
  std::span<const float> weights;       // [n_tokens, top_k]
  std::span<const ExpertLoad> loads;    // activated experts by id
  std::span<const RoutedToken> tokens;  // [n_tokens * top_k], grouped by expert, rows ascending

  // What policies look at: each token's best experts, of which the first top_k are the selection.
  int32_t n_ranks = 0;
  std::span<const ExpertId> ranked;  // [n_tokens, n_ranks]; an invalid id where it is not known
  std::span<const float> scores;     // the same shape: the gate's, over all experts

  // What a lookahead on this layer's input says about the layers after it; see predictor.h.
  int32_t n_ahead = 0;
  std::span<const ExpertId> predicted;  // [n_ahead, n_tokens, top_k]; invalid ids where not known
  // P(use) of each expert, where the lookahead is calibrated; else empty. [n_ahead, n_tokens,
  // n_experts], 0 where there is no guess.
  std::span<const float> predicted_use{};
  bool exact_ahead = false;  // what is predicted is known: the experts are chosen already
};

// Without branches, so that it takes no time beside what made the values.
bool all_finite(std::span<const float> values);

// Policies look at the best 2 top_k of a token (HybriMoE's MRS), and so do traces.
inline int32_t policy_ranks(const RoutingRules& rules) {
  return std::min(2 * rules.top_k, rules.n_experts);
}

// The middle between the top_k-th largest of the logits and the next one: what is above it is
// selected, where the rules select by logits. The least one where all are selected. scratch:
// [logits.size()].
float selection_middle(std::span<const float> logits, int32_t top_k, std::span<float> scratch);

class Router {
 public:
  // n_ranks: experts of each token that RoutingDecision::ranked names; 0: the selection alone.
  Router(RoutingRules rules, int32_t max_tokens, int32_t n_ranks = 0);

  // logits: [n_tokens, n_experts] f32. The result's spans live until the next call.
  // Returns false when a logit is not finite (damaged weights); the result is then empty.
  bool route(LayerId layer, const float* logits, int32_t n_tokens, RoutingDecision* out);
  // The same of experts that are ranked already: ids, best first, and their scores; [n_tokens,
  // ranks()]. False when an id is none.
  bool arrange(LayerId layer, std::span<const ExpertId> ids, const float* scores, int32_t n_tokens,
               RoutingDecision* out);
  int32_t ranks() const { return n_ranks_; }
  // Only who would be selected. ids: [n_tokens, top_k]. False when a logit is not finite. Leaves
  // what route() returned as it is.
  bool select(const float* logits, int32_t n_tokens, std::span<ExpertId> ids);
  const RoutingRules& rules() const { return rules_; }
  void set_bias(std::span<const float> bias) { rules_.bias.assign(bias.begin(), bias.end()); }

 private:
  void best(std::span<const float> values, std::span<ExpertId> ids);
  bool rank(const float* logits, std::span<ExpertId> ids, float* scores);
  void decide(LayerId layer, int32_t n_tokens, RoutingDecision* out);
  void group_token();
  void group_tokens(size_t n);
  void weigh(const float* scores, float* weights) const;

  RoutingRules rules_;
  int32_t n_ranks_;
  std::vector<float> scores_;     // [n_experts]
  std::vector<float> selection_;  // [n_experts]
  std::vector<uint64_t> keys_;    // [n_experts], filled up to whole blocks
  std::vector<uint64_t> block_keys_;
  std::vector<ExpertId> ranked_;  // [max_tokens, n_ranks]
  std::vector<float> rank_scores_;
  std::vector<ExpertId> ids_;  // [max_tokens, top_k]
  std::vector<float> weights_;
  std::vector<ExpertLoad> loads_;
  std::vector<int32_t> cursor_;  // [n_experts]
  std::vector<RoutedToken> tokens_;
};

}  // namespace tandem
