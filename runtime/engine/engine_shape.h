// The sizes that an engine is built for.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/kv_cache.h"
#include "runtime/model/model_config.h"
#include "runtime/pregate/decoupled_router.h"
#include "runtime/pregate/pregate.h"

namespace tandem {

// What is looked up for later layers where nothing is computed for them: runtime/pregate's tables.
enum class GuessTable {
  kNone,
  kPairs,      // who is used behind a layer's experts
  kTokens,     // whom a token uses
  kDraftFree,  // the same, and of the token that the text so far makes likely to come next
};

// Layers ahead whose gates are applied beside each layer's own: first … first + count - 1. A first
// of 0 is the layer itself, whose guess must be its routing: a check of the path, of no other use.
struct Lookahead {
  int32_t first = 1;
  int32_t count = 0;
  // In the place of later layers' gates: a fitted guess for each, where it has one. first is 1
  // then, and count at most its distances.
  std::shared_ptr<const Pregate> fitted{};
  GuessTable table = GuessTable::kNone;  // of `fitted`, in the place of products
};

struct EngineShape {
  int64_t n_ctx = 0;       // positions that the KV cache holds
  int64_t n_batch = 0;     // most tokens of one step
  int64_t max_logits = 1;  // most rows of logits of one step
  KvType kv_type_k = KvType::kF16;
  KvType kv_type_v = KvType::kF16;
  Lookahead lookahead{};  // what is said of later layers beside each layer's own gate
  // Chooses the experts of a model whose layers have no gates; null: they have. The lookahead is
  // then its, and exact.
  std::shared_ptr<const DecoupledRouter> router{};
};

// What the device is built for: it looks up no tables, and guesses nothing where a router has
// chosen.
inline EngineShape device_part(EngineShape shape) {
  if (shape.router || shape.lookahead.table != GuessTable::kNone) shape.lookahead = {};
  return shape;
}

inline KvShape kv_shape(const ModelConfig& config, const EngineShape& shape) {
  return {shape.kv_type_k, shape.kv_type_v, config.n_kv_heads, config.head_dim, config.v_head_dim};
}

}  // namespace tandem
