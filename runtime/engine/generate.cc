#include "runtime/engine/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "runtime/text/utf8_stream.h"

namespace tandem {
namespace {

// Measured and modelled time of what runs while it lives.
class Stopwatch {
 public:
  explicit Stopwatch(const Engine& engine) : engine_(engine) {}
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  double modelled_seconds() const { return engine_.stats().modelled_seconds - modelled_start_; }

 private:
  const Engine& engine_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double modelled_start_ = engine_.stats().modelled_seconds;
};

// The end tokens get no probability.
void forbid_end(const Tokenizer& tokenizer, std::vector<float>* logits) {
  for (TokenId id = 0; id < tokenizer.n_vocab(); ++id) {
    if (tokenizer.is_end_of_generation(id)) {
      (*logits)[static_cast<size_t>(id)] = -1e30F;
    }
  }
}

}  // namespace

const char* stop_reason_text(StopReason reason) {
  switch (reason) {
    case StopReason::kLimit:
      return "limit";
    case StopReason::kEndOfGeneration:
      return "end of generation";
    case StopReason::kContextFull:
      return "context full";
    case StopReason::kInterrupted:
      return "interrupted";
  }
  return "?";
}

GenerationResult generate(Engine& engine, const Tokenizer& tokenizer, Sampler& sampler,
                          const GenerationRequest& request, const GenerationHooks& hooks) {
  GenerationResult result;
  const auto interrupted = [&] { return hooks.interrupted && hooks.interrupted(); };
  const auto total = static_cast<int64_t>(request.prompt.size());
  const int64_t begin = engine.position();
  const Stopwatch prefill(engine);
  std::span<const float> logits = engine.eval(request.prompt, 1, [&](int64_t done) {
    if (hooks.on_prompt) hooks.on_prompt(done, total);
    return !interrupted();
  });
  result.prompt_tokens = engine.position() - begin;
  result.prefill_seconds = prefill.seconds();
  result.modelled_prefill_seconds = prefill.modelled_seconds();
  for (const TokenId id : request.prompt) sampler.accept(id);

  Utf8Stream stream;
  std::vector<float> masked;
  const Stopwatch decode(engine);
  result.stop = StopReason::kInterrupted;
  while (!logits.empty() && !interrupted()) {
    result.stop = StopReason::kLimit;
    if (static_cast<int64_t>(result.tokens.size()) == request.max_tokens) break;
    if (request.ignore_eos) {
      masked.assign(logits.begin(), logits.end());
      forbid_end(tokenizer, &masked);
      logits = masked;
    }
    const TokenId next = sampler.sample(logits);
    sampler.accept(next);
    result.stop = StopReason::kEndOfGeneration;
    if (tokenizer.is_end_of_generation(next) && !request.ignore_eos) break;
    result.tokens.push_back(next);
    if (hooks.on_text) hooks.on_text(stream.push(tokenizer.piece(next)));
    result.stop = StopReason::kLimit;
    if (static_cast<int64_t>(result.tokens.size()) == request.max_tokens) break;
    result.stop = StopReason::kContextFull;
    if (engine.position() == engine.n_ctx()) break;
    logits = engine.eval({&next, 1});
    ++result.decode_steps;
    result.stop = StopReason::kInterrupted;
  }
  if (hooks.on_text) hooks.on_text(stream.flush());
  result.decode_seconds = decode.seconds();
  result.modelled_decode_seconds = decode.modelled_seconds();
  return result;
}

}  // namespace tandem
