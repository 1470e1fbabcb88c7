// Gate reuse: that it is computed right, and that what it says never changes a result.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>

#include "scheduler/impact_prefetcher.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/float64_layer.h"
#include "tests/engine/held_lookahead.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

const std::vector<std::string> kFixtures = {
    "llama-f16",      "llama-q4_0-linear", "llama-q4_0-rope-freqs",
    "olmoe-k-quants", "olmoe-q5_0",        "olmoe-q8_0-clip",
    "qwen2moe-bf16",  "qwen3moe-f32",      "qwen3moe-q8_0-yarn"};

// Some ids of the model's vocabulary; which ones does not matter.
std::vector<int32_t> some_tokens(const Model& model, size_t n) {
  std::mt19937 random(7);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % model.config().n_vocab);
  return ids;
}

// The k largest by descending value, then the largest that is not among them.
std::vector<int32_t> best(const Row& logits, size_t k) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  ids.resize(k + 1);
  return ids;
}

// The router of a later layer on what another layer's router sees, as devices hold it.
Rows reused(const Model& model, size_t from, size_t to) {
  const auto& layers = model.weights().layers;
  const WeightView& router = layers[to].router;
  const auto d = static_cast<size_t>(router.cols);
  Rows gate;
  std::vector<float> row(d);
  for (int64_t e = 0; e < router.rows; ++e) {
    dequantize(router.type, router.data + e * router.row_bytes(), row.data(), router.cols);
    for (size_t i = 0; i < d; ++i) row[i] *= layers[to].ffn_norm[i] / layers[from].ffn_norm[i];
    const std::vector<float> held = as_held(row);
    gate.emplace_back(held.begin(), held.end());
  }
  return gate;
}

// What a lookahead must never be: random, wrong, and sure of itself.
class RandomPredictor final : public Predictor {
 public:
  void observe(const RoutingDecision&) override {}
  bool predict(int32_t, std::span<float> loads) const override {
    for (float& load : loads) load = random_() % 3 == 0 ? static_cast<float>(random_() % 9) : 0.0F;
    return true;
  }

 private:
  mutable std::mt19937 random_{3};
};

struct Outcome {
  std::vector<float> logits;    // of the prompt
  std::vector<int32_t> answer;  // greedy
};

Outcome run_with(StepHarness& harness, Prefetcher& prefetcher, const std::vector<int32_t>& prompt) {
  Outcome out;
  const auto step = [&](std::span<const int32_t> tokens, int64_t at, int32_t n_logits) {
    return run_step({tokens, at, n_logits}, harness.executor, harness.planner, harness.cache,
                    prefetcher, harness.plan);
  };
  const auto n = static_cast<int32_t>(prompt.size());
  auto logits = step(prompt, 0, n);
  out.logits.assign(logits.begin(), logits.end());
  const size_t vocab = logits.size() / prompt.size();
  for (int64_t at = n; at < n + 24; ++at) {
    const auto last = logits.last(vocab);
    out.answer.push_back(
        static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
    logits = step({&out.answer.back(), 1}, at, 1);
  }
  return out;
}

void check_distance_zero(const Model& model) {
  for (const int32_t slots : {-1, 3}) {
    StepHarness harness(model, slots, 64, {0, 1});
    HybridExecutor& exec = harness.executor;
    const std::vector<int32_t> tokens = some_tokens(model, 40);
    int64_t selected = 0;
    exec.set_routing_hook([&](const RoutingDecision& routing) {
      REQUIRE(routing.n_ahead == 1);
      REQUIRE(routing.predicted.size() == routing.ids.size());
      CHECK(std::equal(routing.ids.begin(), routing.ids.end(), routing.predicted.begin()));
      selected += static_cast<int64_t>(routing.ids.size());
    });
    NoPrefetcher nothing;
    run_step({tokens, 0, 1}, exec, harness.planner, harness.cache, nothing, harness.plan);
    CHECK(selected == 40 * model.config().n_layers * model.config().routing.top_k);
  }
}

}  // namespace

TEST_CASE("a gate reused in its own layer says exactly what the layer routes") {
  for (const std::string& name : kFixtures) {
    INFO(name);
    check_distance_zero(Model::load(GgufFile::open(kFamilies + name + ".gguf")));
  }
  check_distance_zero(Model::load(GgufFile::open(kDemoModel)));
}

TEST_CASE("the first layer's guesses are those of float64 arithmetic on routers in Q8_0") {
  const Unrounded unrounded;
  for (const std::string& path : {kFamilies + "qwen3moe-f32.gguf", kDemoModel}) {
    INFO(path);
    const Model model = Model::load(GgufFile::open(path));
    const ModelConfig& c = model.config();
    const auto k = static_cast<size_t>(c.routing.top_k);
    const std::vector<int32_t> tokens = some_tokens(model, 24);
    StepHarness harness(model, 3, 64, {1, 3});
    harness.executor.begin_step({tokens, 0, 1});
    const RoutingDecision& routing = harness.executor.route(LayerId{0});
    REQUIRE(routing.n_ahead == 3);
    const Rows residual = first_residual(model, tokens);
    size_t compared = 0;
    size_t selected = 0;
    size_t as_unrounded = 0;  // what the later layer's own norm and router say, in float64
    const auto reachable = static_cast<size_t>(std::min<int64_t>(3, c.n_layers - 1));
    for (size_t ahead = 1; ahead <= reachable; ++ahead) {
      const Rows gate = reused(model, 0, ahead);
      for (size_t t = 0; t < tokens.size(); ++t) {
        Row x = residual[t];
        Row later = residual[t];
        normalise(model.weights().layers[0].ffn_norm, c.rms_eps, 0, &x);
        normalise(model.weights().layers[ahead].ffn_norm, c.rms_eps, 0, &later);
        Row logits;
        for (const Row& row : gate) {
          logits.push_back(std::inner_product(row.begin(), row.end(), x.begin(), 0.0));
        }
        const std::vector<int32_t> expected = best(logits, k);
        const std::vector<int32_t> exact =
            best(times(model.weights().layers[ahead].router, later), k);
        for (size_t r = 0; r < k; ++r) {
          ++selected;
          const auto end = exact.end() - 1;
          as_unrounded += std::find(exact.begin(), end, expected[r]) != end ? 1 : 0;
        }
        bool near = false;  // closer than f32 can be trusted to tell apart
        for (size_t r = 0; r < k; ++r) {
          near = near || logits[static_cast<size_t>(expected[r])] -
                                 logits[static_cast<size_t>(expected[r + 1])] <
                             1e-4;
        }
        if (near) continue;
        ++compared;
        std::vector<int32_t> got;
        for (size_t r = 0; r < k; ++r) {
          got.push_back(routing.predicted[((ahead - 1) * tokens.size() + t) * k + r].value);
        }
        INFO("ahead " << ahead << ", token " << t);
        CHECK(got == std::vector<int32_t>(expected.begin(), expected.end() - 1));
      }
    }
    CHECK(compared >= reachable * tokens.size() * 9 / 10);
    INFO(as_unrounded << " of " << selected << " experts");
    CHECK(as_unrounded * 50 >= selected * 49);
  }
}

TEST_CASE("reused gates say the same on weights that are packed for the CPU and as they are") {
  const Model as_it_is = Model::load(GgufFile::open(kDemoModel));
  Model packed = Model::load(GgufFile::open(kDemoModel));
  packed.pack(PackScope::kAll, serial_for, [](int64_t) {});
  const auto guesses = [&](const Model& model) {
    StepHarness harness(model, -1, 64, {1, 3});
    std::vector<ExpertId> ids;
    harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
      ids.insert(ids.end(), routing.predicted.begin(), routing.predicted.end());
    });
    const std::vector<int32_t> tokens = some_tokens(model, 5);
    NoPrefetcher nothing;
    run_step({tokens, 0, 1}, harness.executor, harness.planner, harness.cache, nothing,
             harness.plan);
    return ids;
  };
  CHECK(guesses(packed) == guesses(as_it_is));
}

TEST_CASE("nothing is guessed for layers past the last one") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8, 64, {1, 3});
  const std::vector<int32_t> tokens = some_tokens(model, 5);
  const auto n_layers = static_cast<int32_t>(model.config().n_layers);
  harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
    const size_t n = routing.ids.size();
    REQUIRE(routing.predicted.size() == 3 * n);
    for (size_t i = 0; i < 3 * n; ++i) {
      const bool reachable = routing.layer.value + static_cast<int32_t>(i / n) + 1 < n_layers;
      CHECK(routing.predicted[i].valid() == reachable);
    }
  });
  NoPrefetcher nothing;
  run_step({tokens, 0, 1}, harness.executor, harness.planner, harness.cache, nothing, harness.plan);
}

TEST_CASE("gates that are reused change no bit of a result on the CPU") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> tokens = some_tokens(model, 90);
  EngineSettings guessing = cpu_settings();
  guessing.recorded_distances = 3;
  CHECK(all_logits(model, guessing, tokens) == all_logits(model, cpu_settings(), tokens));
}

TEST_CASE("guesses, right or random, change results by rounding at most, and no greedy token") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> prompt = some_tokens(model, 60);
  NoPrefetcher nothing;
  StepHarness cpu(model, -1);
  const Outcome reference = run_with(cpu, nothing, prompt);
  for (const int32_t slots : {-1, 5, 40, 190}) {  // -1: the CPU alone, where nothing can come of it
    for (const bool random : {false, true}) {
      INFO("slots " << slots << ", random " << random);
      StepHarness harness(model, slots, 64, {1, 3});
      std::unique_ptr<Predictor> predictor = std::make_unique<RandomPredictor>();
      if (!random) predictor = make_predictor("gate-reuse", {6, 32, 3});
      ImpactPrefetcher prefetcher(CostModel(harness.machine), expert_costs(model), harness.cache,
                                  std::move(predictor), {});
      const Outcome got = run_with(harness, prefetcher, prompt);
      CHECK((prefetcher.stats().started > 0) == (slots > 0));
      CHECK(got.answer == reference.answer);
      CHECK(relative_error(got.logits, reference.logits) <= 1e-4);
    }
  }
}

TEST_CASE("a reused gate that is not finite is no guess, and its own layer names the damage") {
  std::ifstream in(kDemoModel, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::vector<std::byte> image(bytes.size());
  std::memcpy(image.data(), bytes.data(), bytes.size());
  const GgufFile file = GgufFile::from_memory(image, "damaged.gguf");
  const GgufTensor* router = file.find_tensor("blk.3.ffn_gate_inp.weight");
  REQUIRE(router != nullptr);
  const float nan = NAN;
  std::memcpy(image.data() + (router->data - image.data()), &nan, sizeof nan);
  const Model model = Model::load(GgufFile::from_memory(image, "damaged.gguf"));
  StepHarness harness(model, 8, 64, {1, 3});
  std::vector<bool> guessed;
  harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
    guessed.push_back(routing.predicted.front().valid());
  });
  NoPrefetcher nothing;
  const std::vector<int32_t> tokens = some_tokens(model, 3);
  CHECK_THROWS_WITH(run_step({tokens, 0, 1}, harness.executor, harness.planner, harness.cache,
                             nothing, harness.plan),
                    contains("blk.3."));
  CHECK(guessed == std::vector<bool>{true, true, false});
}

// The device ranks experts of many tokens; of few the host does.
TEST_CASE("a prompt is routed on CUDA kernels as its tokens are in small batches") {
  SimSettings sim;
  sim.kernels = SimKernels::kEmulated;
  sim.check_hazards = true;
  for (const std::string name : {"qwen3moe-f32", "olmoe-q8_0-clip"}) {
    const Model model = Model::load(GgufFile::open(kFamilies + name + ".gguf"));
    const std::vector<int32_t> tokens = some_tokens(model, 12);
    const auto n_layers = static_cast<size_t>(model.config().n_layers);
    const auto routed = [&](size_t batch) {
      StepHarness harness(model, 3, 64, {0, 1}, sim);
      std::vector<std::vector<ExpertId>> ids(n_layers);
      std::vector<std::vector<float>> weights(n_layers);
      harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
        const auto layer = static_cast<size_t>(routing.layer.value);
        ids[layer].insert(ids[layer].end(), routing.ids.begin(), routing.ids.end());
        weights[layer].insert(weights[layer].end(), routing.weights.begin(), routing.weights.end());
        CHECK(std::equal(routing.ids.begin(), routing.ids.end(), routing.predicted.begin()));
      });
      NoPrefetcher prefetcher;
      for (size_t at = 0; at < tokens.size(); at += batch) {
        run_step({std::span(tokens).subspan(at, batch), static_cast<int64_t>(at), 1},
                 harness.executor, harness.planner, harness.cache, prefetcher, harness.plan);
      }
      return std::pair(ids, weights);
    };
    const auto whole = routed(12);
    const auto parts = routed(4);
    INFO(name);
    CHECK(whole.first == parts.first);
    for (size_t l = 0; l < n_layers; ++l) {
      CHECK(relative_error(whole.second[l], parts.second[l]) < 1e-4);
    }
  }
}

}  // namespace tandem::test
