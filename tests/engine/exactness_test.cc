// Promise 1: cache, placement and batch size change results by rounding at most (1e-4 of the
// largest logit); on the CPU alone, batch size and threads do not change a bit.
#include "runtime/text/tokenizer.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

constexpr int kAnswer = 24;
constexpr double kTolerance = 1e-4;

// 90 tokens of the held-out text: more than one batch of 64, and every expert of every layer.
std::vector<int32_t> prompt(const Model& model) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(model.file());
  std::vector<int32_t> ids = tokenizer.encode(
      "The little boy ran after him as fast as he could clip it, crying out to his father and "
      "mother, who heard the uproar, and threw down their hoes and gave chase too. But Johnny-cake "
      "outran all three a long way, and was soon out of sight, while they had to sit down, all out "
      "of breath, on a bank to rest. On went Johnny-cake, and by-and-by he came to two diggers.",
      true, false);
  REQUIRE(ids.size() >= 90);
  ids.resize(90);
  return ids;
}

struct Outcome {
  std::vector<float> logits;    // of every prompt position
  std::vector<int32_t> answer;  // greedy
};

Outcome outcome(const Model& model, const EngineSettings& settings,
                const std::vector<int32_t>& ids) {
  Engine engine(model, test_machine(), settings);
  return {all_logits(model, settings, ids), greedy(engine, ids, kAnswer)};
}

}  // namespace

TEST_CASE(
    "batch size, cache size and policy change logits by rounding at most, and no greedy token") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> ids = prompt(model);
  const Outcome reference = outcome(model, cpu_settings(), ids);
  const int32_t per_layer = model.config().routing.n_experts;
  const auto all = static_cast<int32_t>(model.config().n_layers) * per_layer;
  std::vector<EngineSettings> settings{cpu_settings()};
  for (const char* policy : {"lru", "lfu"}) {
    for (const int32_t slots : {4, per_layer, all / 2, all}) {
      settings.push_back(sim_settings(slots));
      settings.back().cache_policy = policy;
    }
  }
  for (EngineSettings one : settings) {
    for (const int64_t batch : {1, 7, 64, 512}) {
      one.n_batch = batch;
      INFO((one.device == DeviceKind::kCpu ? "cpu" : *one.cache_policy)
           << ", slots " << one.expert_slots.value_or(0) << ", batch " << batch);
      const Outcome got = outcome(model, one, ids);
      CHECK(got.answer == reference.answer);
      CHECK(relative_error(got.logits, reference.logits) <= kTolerance);
    }
  }
}

TEST_CASE("on the CPU the batch size does not change one bit") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> ids = prompt(model);
  for (const KvType cache : {KvType::kF16, KvType::kQ8_0}) {
    EngineSettings settings = cpu_settings();
    settings.kv_type_k = cache;
    settings.kv_type_v = cache;
    const std::vector<float> reference = all_logits(model, settings, ids);
    for (const int64_t batch : {1, 7, 64}) {
      settings.n_batch = batch;
      INFO(kv_type_name(cache) << ", batch " << batch);
      CHECK(all_logits(model, settings, ids) == reference);
    }
  }
}

TEST_CASE("the number of threads does not change one bit") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> ids = prompt(model);
  const std::vector<float> reference = all_logits(model, cpu_settings(), ids);
  for (const int threads : {1, 3}) {
    EngineSettings settings = cpu_settings();
    settings.n_threads = threads;
    CHECK(all_logits(model, settings, ids) == reference);
  }
}

TEST_CASE("a rewound sequence goes on as if the rest had never been") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> ids = prompt(model);
  Engine fresh(model, test_machine(), sim_settings(40));
  const std::vector<int32_t> expected = greedy(fresh, ids, kAnswer);
  Engine engine(model, test_machine(), sim_settings(40));
  engine.eval(std::span(ids).first(30));
  greedy(engine, std::span(ids).subspan(3, 20), 10);
  engine.rewind(30);
  CHECK(greedy(engine, std::span(ids).subspan(30), kAnswer) == expected);
}

}  // namespace tandem::test
