// Who leaves when a slot is needed. A policy only gives values; the cache moves.
// One policy object belongs to one cache and is called by the thread that runs the step loop.
// No call allocates after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/types.h"

namespace tandem {

// One layer's routing in one step.
struct LayerUse {
  LayerId layer;
  std::span<const ExpertId> used;  // distinct, heaviest first, hits and misses alike
  // What each token's gate said: the first top_k of n_ranks are the selection. A rank that is not
  // known has an invalid id.
  int32_t n_tokens = 0;
  int32_t top_k = 0;
  int32_t n_ranks = 0;
  std::span<const ExpertId> ranked;  // [n_tokens, n_ranks]
  std::span<const float> scores;     // the same shape
};

// How much an expert is expected to be used, in uses per token.
class UseForecast {
 public:
  virtual ~UseForecast() = default;
  virtual double next(ExpertKey key) const = 0;  // when its layer's turn comes next
  virtual double rate(ExpertKey key) const = 0;  // in the long run
  // next() of all experts of a layer, rounded. [n_experts]
  virtual void next(LayerId layer, std::span<float> uses) const = 0;
};

// Values that are a weight of the layer times what the expert stands for among its layer's. The
// latter changes only where the layer is used or reordered, weights with each use.
class LayeredValues {
 public:
  virtual ~LayeredValues() = default;
  virtual std::span<const double> weights() const = 0;  // [n_layers]
  virtual float standing(ExpertKey key) const = 0;
  // Of all of a layer's.
  virtual void standings(LayerId layer, std::span<float> standings) const = 0;  // [n_experts]
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // In a layer's commit, before anybody leaves. May change the order of this layer's experts, and
  // within those of other layers that reordered() lists: the cache remembers the weakest of each.
  virtual void on_use(const LayerUse& use) = 0;
  virtual std::span<const LayerId> reordered() const { return {}; }
  // What keeping the expert is worth; the smallest value leaves first. Comparable across layers.
  virtual double value(ExpertKey key) const = 0;
  // The same values in two parts, for policies that can give them; null otherwise.
  virtual const LayeredValues* layered() const { return nullptr; }
  // What it expects, for those who would rather bring an expert early; null where it counts
  // nothing.
  virtual const UseForecast* forecast() const { return nullptr; }
};

// When each expert is used next, where that is known: a recorded trace, or tokens routed ahead.
class FutureUses {
 public:
  virtual ~FutureUses() = default;
  // Layer visits from the current one until the expert is used, at least 1; infinity for never.
  virtual double next_use(ExpertKey key) const = 0;
  // Layers whose experts' order of next uses has changed by what became known, and not only because
  // a visit went by.
  virtual std::span<const LayerId> reordered() const { return {}; }
};

struct PolicyShape {
  int32_t n_layers = 0;
  int32_t n_experts = 0;                 // per layer
  const FutureUses* future = nullptr;    // for clairvoyant policies; outlives the policy
  std::span<const double> layer_cost{};  // [n_layers] what a miss costs, for cost_aware; or empty
};

struct PolicyParameter {
  std::string_view name;
  double standard;
  double least;
  double most;
  std::string_view meaning;
};

struct PolicyInfo {
  std::string_view name;
  std::string_view meaning;
  std::span<const PolicyParameter> parameters;
  bool needs_future = false;
  // values: one for each parameter, in their order.
  std::unique_ptr<EvictionPolicy> (*make)(const PolicyShape& shape,
                                          std::span<const double> values) = nullptr;
};

// All policies, by name.
std::span<const PolicyInfo> eviction_policies();
// nullptr for an unknown name.
const PolicyInfo* find_eviction_policy(std::string_view name);
// With standard parameters. nullptr for an unknown name, or when the future is needed and not
// there.
std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name,
                                                     const PolicyShape& shape);
std::vector<std::string_view> eviction_policy_names();
// Those that need no future.
std::vector<std::string_view> causal_policy_names();

}  // namespace tandem
