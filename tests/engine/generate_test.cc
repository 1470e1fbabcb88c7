#include "runtime/engine/generate.h"

#include "runtime/engine/host_vector.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

struct Setup {
  explicit Setup(int64_t n_ctx = 0)
      : model(Model::load(GgufFile::open(kDemoModel))),
        tokenizer(Tokenizer::from_gguf(model.file())),
        prompt(tokenizer.encode("Once upon a time", true, true)) {
    EngineSettings settings = cpu_settings();
    settings.n_ctx = n_ctx;
    engine = std::make_unique<Engine>(model, test_machine(), settings);
    SamplingSettings greedy_settings;
    greedy_settings.temperature = 0;
    sampler = std::make_unique<Sampler>(greedy_settings, model.config().n_vocab, engine->n_ctx());
  }

  Model model;
  Tokenizer tokenizer;
  std::vector<TokenId> prompt;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Sampler> sampler;
};

}  // namespace

TEST_CASE("generation stops at the limit") {
  Setup s;
  const GenerationResult result =
      generate(*s.engine, s.tokenizer, *s.sampler, {s.prompt, 7, false}, {});
  CHECK(result.tokens.size() == 7);
  CHECK(result.stop == StopReason::kLimit);
  CHECK(result.prompt_tokens == 5);
  CHECK(result.decode_steps == 6);
}

TEST_CASE("a limit of zero reads the prompt and writes nothing") {
  Setup s;
  const GenerationResult result =
      generate(*s.engine, s.tokenizer, *s.sampler, {s.prompt, 0, false}, {});
  CHECK(result.tokens.empty());
  CHECK(result.prompt_tokens == 5);
}

TEST_CASE("generation stops when the context is full, with one token for its last place") {
  Setup s(16);
  const GenerationResult result =
      generate(*s.engine, s.tokenizer, *s.sampler, {s.prompt, -1, false}, {});
  CHECK(result.stop == StopReason::kContextFull);
  CHECK(result.tokens.size() == 16 - 5 + 1);
}

TEST_CASE("a prompt longer than the context is refused and leaves the sequence alone") {
  Setup s(8);
  s.engine->eval(s.prompt);
  CHECK_THROWS_AS(s.engine->eval(s.prompt), ConfigError);
  CHECK(s.engine->position() == 5);
}

TEST_CASE("an interrupt stops between tokens and keeps what was written") {
  Setup s;
  std::string text;
  GenerationHooks hooks;
  hooks.interrupted = [&] { return text.size() > 20; };
  hooks.on_text = [&](std::string_view piece) { text += piece; };
  const GenerationResult result =
      generate(*s.engine, s.tokenizer, *s.sampler, {s.prompt, -1, false}, hooks);
  CHECK(result.stop == StopReason::kInterrupted);
  CHECK(text.size() > 20);
  CHECK(text == s.tokenizer.decode(result.tokens));
}

TEST_CASE("progress of a prompt counts up to its length, layer by layer") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = cpu_settings();
  settings.n_batch = 6;
  Engine engine(model, test_machine(), settings);
  const std::vector<int32_t> prompt(9, 258);
  std::vector<int64_t> seen;
  engine.eval(prompt, 1, [&](int64_t done) {
    seen.push_back(done);
    return true;
  });
  CHECK(seen == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 8, 8, 9});
}

TEST_CASE("a prompt given up inside a batch ends at the last whole batch") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = cpu_settings();
  settings.n_batch = 4;
  Engine engine(model, test_machine(), settings);
  const std::vector<int32_t> prompt(10, 258);
  CHECK(engine.eval(prompt, 1, [](int64_t done) { return done < 6; }).empty());
  CHECK(engine.position() == 4);
  CHECK(engine.eval(std::span(prompt).subspan(4)).size() == 4096);
}

TEST_CASE("a device too small for the dense weights is an error that says what to change") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(1);
  settings.vram_bytes = 1 << 20;
  CHECK_THROWS_WITH(Engine(model, test_machine(), settings), contains("raise --vram"));
}

TEST_CASE("a host buffer that no machine has memory for is an error that says what and how much") {
  std::vector<float> buffer;
  CHECK_THROWS_WITH(resize_host(&buffer, int64_t{1} << 62, "logits"),
                    contains("logits: cannot allocate 17179869184.00 GiB of host memory"));
}

TEST_CASE("slots that do not fit are reduced, and the settings say so") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(192);
  settings.vram_bytes = 12 << 20;
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_slots() > 0);
  CHECK(engine.n_slots() < 192);
  for (const EffectiveSetting& setting : engine.effective()) {
    if (setting.name != "expert slots") continue;
    CHECK(setting.requested == "192");
    CHECK(setting.effective != "192 of 192");
    CHECK(!setting.reason.empty());
  }
}

TEST_CASE("an unknown cache policy is an error that lists the known ones") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(8);
  settings.cache_policy = "fifo";
  CHECK_THROWS_WITH(Engine(model, test_machine(), settings), contains("lfu, lru"));
}

}  // namespace tandem::test
