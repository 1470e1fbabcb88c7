// Whole models on a simulated GPU whose kernels are the CUDA ones, emulated. They round activations
// as the CPU's fast kernels do, to the same bits, so these are what results are compared with: what
// is left is the order of additions. Weights in f16 and f32 are not rounded for; there the
// reference is transformers'.
#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/npy.h"

namespace tandem::test {
namespace {

const std::vector<std::string> kModels = {
    "llama-f16",         "llama-q4_0-linear", "llama-q4_0-rope-freqs",
    "olmoe-k-quants",    "olmoe-q5_0",        "olmoe-q8_0-clip",
    "qwen2moe-bf16",     "qwen3moe-f32",      "qwen3moe-q4_0-yarn-attn-factor",
    "qwen3moe-q8_0-yarn"};

struct Family {
  explicit Family(const std::string& name)
      : json(read_json(kFamilies + name + ".json")),
        model(Model::load(GgufFile::open(kFamilies + json["model"].get<std::string>()))),
        prompt(json["prompt"].get<std::vector<int32_t>>()) {}
  nlohmann::json json;
  Model model;
  std::vector<int32_t> prompt;
};

EngineSettings with_cache(EngineSettings settings, KvType type) {
  settings.kv_type_k = type;
  settings.kv_type_v = type;
  return settings;
}

}  // namespace

// Measured: up to 2.7e-6 with a cache in f32; 8.6e-4 in f16, where a key or value that is halfway
// between two f16 falls to either side.
TEST_CASE("CUDA kernels give every family the logits of the CPU's kernels") {
  const SimdOps* ops = testing::rounding_isa();
  if (ops == nullptr) {
    WARN("skipped: no instruction set of this CPU rounds activations");
    return;
  }
  const testing::IsaScope isa(ops);
  struct Way {
    KvType cache;
    int64_t batch;
    double tolerance;
  };
  for (const Way& way :
       {Way{KvType::kF32, 1, 1e-5}, {KvType::kF32, 64, 1e-5}, {KvType::kF16, 3, 2e-3}}) {
    for (const std::string& name : kModels) {
      const Family family(name);
      EngineSettings settings = with_cache(cuda_settings(3), way.cache);
      settings.n_batch = way.batch;
      INFO(name << ", batch " << way.batch);
      CHECK(relative_error(all_logits(family.model, settings, family.prompt),
                           all_logits(family.model, with_cache(cpu_settings(), way.cache),
                                      family.prompt)) <= way.tolerance);
    }
  }
}

// Keys and values that are halfway between two int8 fall to either side, too. Measured:
// 5.5e-3.
TEST_CASE("CUDA kernels give the demo model the logits of the CPU's kernels with a cache in q8_0") {
  const SimdOps* ops = testing::rounding_isa();
  if (ops == nullptr) {
    WARN("skipped: no instruction set of this CPU rounds activations");
    return;
  }
  const testing::IsaScope isa(ops);
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto prompt = read_json(TANDEM_SOURCE_DIR "/demo/golden.json")["Q8_0"]["prompt_ids"]
                          .get<std::vector<int32_t>>();
  const std::vector<float> expected =
      all_logits(model, with_cache(cpu_settings(), KvType::kQ8_0), prompt);
  for (const int64_t batch : {1, 64}) {
    EngineSettings settings = with_cache(cuda_settings(40), KvType::kQ8_0);
    settings.n_batch = batch;
    INFO("batch " << batch);
    CHECK(relative_error(all_logits(model, settings, prompt), expected) <= 2e-2);
  }
}

TEST_CASE("CUDA kernels give float models the logits of transformers") {
  for (const char* name : {"llama-f16", "qwen3moe-f32"}) {
    const Family family(name);
    const Npy expected = read_npy(kFamilies + family.json["logits"].get<std::string>());
    const std::vector<float> logits =
        all_logits(family.model, with_cache(cuda_settings(3), KvType::kF32), family.prompt);
    const auto vocab = static_cast<size_t>(expected.cols);
    for (size_t i = 0; i < family.json["logit_positions"].size(); ++i) {
      const auto position = family.json["logit_positions"][i].get<size_t>();
      INFO(name << ", position " << position);
      CHECK(relative_error(std::span(logits).subspan(position * vocab, vocab),
                           expected.row(static_cast<int64_t>(i))) <= 1e-4);
    }
  }
}

TEST_CASE("the demo model continues its golden prompt with the golden tokens on CUDA kernels") {
  const nlohmann::json golden = read_json(TANDEM_SOURCE_DIR "/demo/golden.json")["Q8_0"];
  const auto prompt = golden["prompt_ids"].get<std::vector<int32_t>>();
  const auto tokens = golden["greedy"].get<std::vector<int32_t>>();
  for (const bool packed : {false, true}) {
    Model model = Model::load(GgufFile::open(kDemoModel));
    if (packed) model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
    const int32_t slots = packed ? 192 : 40;
    INFO("packed " << packed << ", slots " << slots);
    Engine engine(model, test_machine(), cuda_settings(slots));
    CHECK(greedy(engine, prompt, static_cast<int>(tokens.size())) == tokens);
  }
}

// Sum and norm, queries with keys and values, heads, attention, its output, norm and router, gate
// with up, down; then sum and norm, and logits. Behind 512 tokens attention is two kernels.
// Three later layers are guessed by one kernel more, where there is a later layer.
TEST_CASE("a token takes eight CUDA kernels a layer, nine behind 512 tokens or looking ahead") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const int32_t pieces = ExpertCuts(model).pieces();
  SimSettings sim;
  sim.kernels = SimKernels::kEmulated;
  const auto n_layers = static_cast<uint64_t>(model.config().n_layers);
  struct Way {
    bool far;
    Lookahead lookahead;
    uint64_t kernels;
  };
  for (const Way& way : {Way{false, {}, 8 * n_layers}, Way{true, {}, 9 * n_layers},
                         Way{false, {1, 3}, 9 * n_layers - 1}}) {
    const bool far = way.far;
    StepHarness harness(model, 64, 600, way.lookahead, sim);
    const auto launches = [&] {
      return dynamic_cast<const SimDevice&>(*harness.device).kernel_launches();
    };
    const std::vector<int32_t> prompt(far ? 520 : 8, 258);
    run_divided(&harness, {prompt, 0, 1}, 0, {{}});
    const uint64_t before = launches();
    run_divided(&harness, {std::span(prompt).first(1), static_cast<int64_t>(prompt.size()), 1}, -1,
                {{pieces, pieces}});
    CHECK(launches() - before == way.kernels + 2);
  }
}

// Four experts that are copied, each in twelve times the time of its arithmetic: the first three
// are one launch of two kernels, behind the third's copy, and the last is another.
TEST_CASE("experts that land late share a launch but for the last") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  REQUIRE(model.config().routing.top_k == 4);
  SimSettings sim;
  sim.kernels = SimKernels::kEmulated;
  StepHarness harness(model, 64, 16, {}, sim);
  const std::vector<int32_t> token{258};
  run_divided(&harness, {token, 0, 1}, -1, {{0, ExpertCuts(model).pieces()}});
  CHECK(dynamic_cast<const SimDevice&>(*harness.device).kernel_launches() ==
        static_cast<uint64_t>(model.config().n_layers) * (8 + 2) + 2);
}

// Steps of one token are graphs, the same tokens in pairs are not; a step behind position 512
// begins with other graphs.
TEST_CASE("a token alone, from a graph, has the logits that it has beside another") {
  const SimdOps* ops = testing::rounding_isa();
  const testing::IsaScope isa(ops != nullptr ? ops : &simd());
  for (const char* name : {"olmoe-q8_0-clip", "qwen2moe-bf16", "qwen3moe-f32"}) {
    const Family family(name);
    EngineSettings settings = with_cache(cuda_settings(3), KvType::kF32);
    std::vector<int32_t> tokens;
    while (tokens.size() < 520) {
      tokens.insert(tokens.end(), family.prompt.begin(), family.prompt.end());
    }
    tokens.resize(520);
    settings.n_ctx = 528;
    settings.max_logits = 1;
    const auto last_logits = [&](int64_t from, int64_t step) {
      Engine engine(family.model, test_machine(), settings);
      const auto first = static_cast<size_t>(from);
      engine.eval(std::span(tokens).first(first));
      std::vector<float> all;
      for (size_t at = first; at < tokens.size(); at += static_cast<size_t>(step)) {
        const auto logits = engine.eval(std::span(tokens).subspan(at, static_cast<size_t>(step)));
        // Of the last of two tokens.
        if ((at - first) % 2 == static_cast<size_t>(2 - step)) {
          all.insert(all.end(), logits.begin(), logits.end());
        }
      }
      return all;
    };
    INFO(name);
    CHECK(relative_error(last_logits(504, 1), last_logits(504, 2)) <= 1e-5);
  }
}

}  // namespace tandem::test
