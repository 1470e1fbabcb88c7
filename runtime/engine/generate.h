// Reads a prompt and writes an answer, token by token, with timing.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/sampler.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

enum class StopReason { kLimit, kEndOfGeneration, kContextFull, kInterrupted };
const char* stop_reason_text(StopReason reason);

struct GenerationRequest {
  std::span<const TokenId> prompt;  // not empty
  int64_t max_tokens = -1;          // -1: until the model ends or the context is full
  bool ignore_eos = false;
};

struct GenerationHooks {
  std::function<void(std::string_view text)> on_text;  // whole UTF-8 characters
  std::function<void(int64_t done, int64_t total)> on_prompt;
  std::function<bool()> interrupted;
};

// Seconds are measured on this machine unless they say "modelled".
struct GenerationResult {
  std::vector<TokenId> tokens;  // the answer, without the end token
  StopReason stop = StopReason::kLimit;
  int64_t prompt_tokens = 0;
  int64_t decode_steps = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  double modelled_prefill_seconds = 0;
  double modelled_decode_seconds = 0;

  double prefill_tps() const { return rate(prompt_tokens, prefill_seconds); }
  double decode_tps() const { return rate(decode_steps, decode_seconds); }
  double modelled_prefill_tps() const { return rate(prompt_tokens, modelled_prefill_seconds); }
  double modelled_decode_tps() const { return rate(decode_steps, modelled_decode_seconds); }

 private:
  static double rate(int64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0;
  }
};

// Errors as Engine::eval.
GenerationResult generate(Engine& engine, const Tokenizer& tokenizer, Sampler& sampler,
                          const GenerationRequest& request, const GenerationHooks& hooks);

}  // namespace tandem
