#include "runtime/engine/perplexity.h"

#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int64_t kContext = 32;

// Of four chunks, interrupted when it has asked `questions` times.
Perplexity interrupted_after(int64_t questions) {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = cpu_settings();
  settings.n_batch = 8;
  settings.max_logits = 8;
  Engine engine(model, test_machine(), settings);
  const std::vector<int32_t> tokens(4 * kContext, 258);
  PerplexityHooks hooks;
  hooks.interrupted = [&] { return questions-- == 0; };
  return perplexity(engine, Tokenizer::from_gguf(model.file()), tokens, kContext, hooks);
}

}  // namespace

TEST_CASE("perplexity that is interrupted counts the chunks that it has read to their ends") {
  // Four batches a chunk; each asks before its six layers and at its end.
  constexpr int64_t kChunk = 4 * 7;
  CHECK(interrupted_after(-1).chunks == 4);
  CHECK(interrupted_after(0).chunks == 0);
  CHECK(interrupted_after(3).chunks == 0);
  CHECK(interrupted_after(kChunk).chunks == 1);
  CHECK(interrupted_after(kChunk + 10).chunks == 1);
  CHECK(interrupted_after(kChunk + 10).value == interrupted_after(kChunk).value);
  CHECK(interrupted_after(kChunk + 10).scored_tokens == kContext / 2 - 1);
}

}  // namespace tandem::test
