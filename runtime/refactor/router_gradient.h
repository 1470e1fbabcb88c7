// The loss of a decoupled router on some tokens, and its gradient, by hand. Used by one thread at a
// time; several may work on one router.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "runtime/pregate/decoupled_router.h"

namespace tandem {

class RouterGradient {
 public:
  RouterGradient(const DecoupledShape& shape, int64_t most_tokens);
  ~RouterGradient();
  RouterGradient(RouterGradient&&) noexcept;
  RouterGradient& operator=(RouterGradient&&) = delete;
  RouterGradient(const RouterGradient&) = delete;
  RouterGradient& operator=(const RouterGradient&) = delete;

  // A text's first tokens, 1 to most_tokens of them, and what the router should say of each:
  // targets [n, n_experts], rows that sum to 1. Returns the sum over tokens of the cross-entropy of
  // softmax(logits). The router has the shape.
  double run(const DecoupledRouter& router, std::span<const int32_t> tokens,
             std::span<const float> targets);

  // Of the sum that run() returned, for each number of the router but the embedding (empty here),
  const DecoupledRouter& gradient() const;
  // and for the embedding's row of each token: [n, width].
  std::span<const float> row_gradients() const;

  // Memory that one takes.
  static int64_t bytes(const DecoupledShape& shape, int64_t most_tokens);

 private:
  struct Pass;
  std::unique_ptr<Pass> pass_;
};

}  // namespace tandem
