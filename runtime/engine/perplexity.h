// Perplexity as llama-perplexity defines it: the text is cut into chunks of n_ctx tokens, each
// begins with BOS where the model wants one, and the tokens of each second half are scored.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

struct Perplexity {
  double value = 0;
  double uncertainty = 0;  // one standard error, as llama-perplexity prints it
  int64_t chunks = 0;
  int64_t scored_tokens = 0;
};

// tokens: of the whole text, BOS first where the model wants one. The engine must have been made
// with max_logits >= n_batch. ConfigError when there are fewer than 2 * n_ctx tokens, or n_ctx is
// below 3.
// `progress` gets the running value after each chunk; returning false stops there.
Perplexity perplexity(Engine& engine, const Tokenizer& tokenizer, std::span<const TokenId> tokens,
                      int64_t n_ctx,
                      const std::function<bool(const Perplexity&, int64_t total)>& progress = {});

}  // namespace tandem
