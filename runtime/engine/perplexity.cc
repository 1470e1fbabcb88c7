#include "runtime/engine/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/error.h"

namespace tandem {
namespace {

// -ln p(token), from one row of logits.
double negative_log_likelihood(std::span<const float> row, TokenId token) {
  const float top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit - top));
  return std::log(sum) - static_cast<double>(row[static_cast<size_t>(token)] - top);
}

struct Sums {
  double nll = 0;
  double nll2 = 0;
  int64_t count = 0;

  Perplexity result(int64_t chunks) const {
    const auto n = static_cast<double>(count);
    const double mean = nll / n;
    const double variance = nll2 / n - mean * mean;
    const double value = std::exp(mean);
    const double error = count > 1 && variance > 0 ? std::sqrt(variance / (n - 1)) : 0;
    return {value, error * value, chunks, count};
  }
};

}  // namespace

Perplexity perplexity(Engine& engine, const Tokenizer& tokenizer, std::span<const TokenId> tokens,
                      int64_t n_ctx, const PerplexityHooks& hooks) {
  constexpr int64_t kLeastContext = 3;  // the second half of a shorter one has nothing to score
  if (n_ctx < kLeastContext) {
    throw ConfigError(
        fmt::format("a context of {} scores no token; expected at least {}", n_ctx, kLeastContext));
  }
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  if (n_tokens < 2 * n_ctx) {
    throw ConfigError(fmt::format("the text has {} tokens; a context of {} needs at least {}",
                                  n_tokens, n_ctx, 2 * n_ctx));
  }
  const int64_t chunks = n_tokens / n_ctx;
  const int64_t first = n_ctx / 2;
  const auto vocab = static_cast<size_t>(engine.model().config().n_vocab);
  Sums sums;
  Perplexity result;
  for (int64_t c = 0; c < chunks; ++c) {
    const auto whole = tokens.subspan(static_cast<size_t>(c * n_ctx), static_cast<size_t>(n_ctx));
    std::vector<TokenId> chunk(whole.begin(), whole.end());
    if (tokenizer.adds_bos() && tokenizer.bos()) chunk[0] = *tokenizer.bos();
    engine.rewind(0);
    for (int64_t at = 0; at < n_ctx;) {
      const int64_t n = std::min(engine.n_batch(), n_ctx - at);
      const auto rows =
          engine.eval(std::span(chunk).subspan(static_cast<size_t>(at), static_cast<size_t>(n)), n,
                      [&](int64_t) { return !hooks.interrupted || !hooks.interrupted(); });
      if (rows.empty()) return result;
      for (int64_t i = std::max(at, first); i < at + n && i < n_ctx - 1; ++i) {
        const double nll =
            negative_log_likelihood(rows.subspan(static_cast<size_t>(i - at) * vocab, vocab),
                                    chunk[static_cast<size_t>(i + 1)]);
        sums.nll += nll;
        sums.nll2 += nll * nll;
        ++sums.count;
      }
      at += n;
    }
    result = sums.result(c + 1);
    if (hooks.on_chunk) hooks.on_chunk(result);
  }
  return result;
}

}  // namespace tandem
