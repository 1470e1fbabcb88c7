// The demo model against golden.json: an independent float64 forward pass over the same weights.
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>

#include "runtime/engine/perplexity.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/recording_prefetcher.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

nlohmann::json golden() { return read_json(TANDEM_SOURCE_DIR "/demo/golden.json")["Q8_0"]; }

Model demo() { return Model::load(GgufFile::open(kDemoModel)); }

std::vector<EngineSettings> both_devices() { return {cpu_settings(), sim_settings(40)}; }

}  // namespace

TEST_CASE("the demo model continues its golden prompt with the golden tokens") {
  const Unrounded unrounded;
  const Model model = demo();
  const nlohmann::json expected = golden();
  for (const EngineSettings& settings : both_devices()) {
    Engine engine(model, test_machine(), settings);
    const auto prompt = expected["prompt_ids"].get<std::vector<int32_t>>();
    const auto tokens = expected["greedy"].get<std::vector<int32_t>>();
    CHECK(greedy(engine, prompt, static_cast<int>(tokens.size())) == tokens);
  }
}

// The golden numbers are float64 with exact keys and values. Our f32 sums over 256 products and 6
// layers keep about 1e-6 of the largest logit (7.2), and golden.json has five digits behind the
// point; an f16 cache adds up to 2^-11 of each key and value. Measured on one machine: 5.7e-6 with
// f32, 7.4e-4 with f16.
TEST_CASE("the demo model's ten likeliest tokens have the golden logits") {
  const Unrounded unrounded;
  const Model model = demo();
  const nlohmann::json expected = golden();
  const auto prompt = expected["prompt_ids"].get<std::vector<int32_t>>();
  for (EngineSettings settings : both_devices()) {
    for (const KvType type : {KvType::kF32, KvType::kF16}) {
      settings.kv_type_k = type;
      settings.kv_type_v = type;
      const double tolerance = type == KvType::kF32 ? 5e-5 : 5e-3;
      Engine engine(model, test_machine(), settings);
      const std::span<const float> logits = engine.eval(prompt);
      for (const auto& pair : expected["top10"]) {
        CHECK(std::abs(static_cast<double>(logits[pair[0].get<size_t>()]) -
                       pair[1].get<double>()) <= tolerance);
      }
      const double sum = std::accumulate(logits.begin(), logits.end(), 0.0);
      CHECK(std::abs(sum - expected["logit_sum"].get<double>()) <=
            tolerance * static_cast<double>(logits.size()));
    }
  }
}

TEST_CASE("the demo model routes its golden prompt through the golden experts") {
  const Unrounded unrounded;
  const Model model = demo();
  const nlohmann::json expected = golden();
  const auto prompt = expected["prompt_ids"].get<std::vector<int32_t>>();
  StepHarness harness(model, 20);
  RecordingPrefetcher recorder;
  run_step({prompt, 0, 1}, harness.executor, harness.planner, harness.cache, recorder,
           harness.plan);
  CHECK(recorder.layers == expected["routing_prompt"].get<decltype(recorder.layers)>());
}

// The float64 reference gives 40.191 over 62 chunks of 256 tokens.
TEST_CASE("the held-out perplexity is the float64 reference's", "[perplexity]") {
  const Unrounded unrounded;
  const Model model = demo();
  EngineSettings settings = cpu_settings();
  settings.n_ctx = 256;
  settings.max_logits = settings.n_batch;
  settings.kv_type_k = KvType::kF32;
  settings.kv_type_v = KvType::kF32;
  Engine engine(model, test_machine(), settings);
  const Tokenizer tokenizer = Tokenizer::from_gguf(model.file());
  std::ifstream in(TANDEM_SOURCE_DIR "/demo/heldout.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const Perplexity result = perplexity(engine, tokenizer, tokenizer.encode(text, true, false), 256);
  CHECK(result.chunks == 62);
  CHECK(result.scored_tokens == 62 * 127);
  CHECK(std::abs(result.value - 40.191) <= 0.001);
}

}  // namespace tandem::test
