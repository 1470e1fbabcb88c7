// Perplexity as llama-perplexity defines it: the text is cut into chunks of n_ctx tokens, each
// begins with BOS where the model wants one, and the tokens of each second half are scored.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

// Of the chunks that were read to their ends.
struct Perplexity {
  double value = 0;
  double uncertainty = 0;  // one standard error, as llama-perplexity prints it
  int64_t chunks = 0;
  int64_t scored_tokens = 0;
};

struct PerplexityHooks {
  std::function<void(const Perplexity& so_far)> on_chunk;
  std::function<bool()> interrupted;  // asked layer by layer; the chunk is then left out
};

// tokens: of the whole text, BOS first where the model wants one. The engine must have been made
// with max_logits >= n_batch. ConfigError when there are fewer than 2 * n_ctx tokens, or n_ctx is
// below 3.
Perplexity perplexity(Engine& engine, const Tokenizer& tokenizer, std::span<const TokenId> tokens,
                      int64_t n_ctx, const PerplexityHooks& hooks = {});

}  // namespace tandem
