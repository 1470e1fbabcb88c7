// Models whose experts are chosen from token ids, before their layers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "runtime/engine/decoupled_routes.h"
#include "runtime/engine/device_choice.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/shape_choice.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"
#include "tests/support/decoupled_reference.h"
#include "tests/support/dies.h"
#include "tests/support/file_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

constexpr int32_t kLayers = 3;
constexpr int32_t kExperts = 4;
constexpr int32_t kVocab = 24;
constexpr int32_t kWidth = 32;

using Tokens = std::vector<int32_t>;

std::vector<float> normals(size_t n, std::mt19937* rng, float sigma) {
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(n);
  for (float& x : values) x = normal(*rng);
  return values;
}

std::shared_ptr<DecoupledRouter> random_router(uint32_t seed) {
  DecoupledShape shape;
  shape.n_vocab = kVocab;
  shape.width = 8;
  shape.n_heads = 2;
  shape.ff = 16;
  shape.n_experts = kExperts;
  shape.n_layers = kLayers;
  auto router = std::make_shared<DecoupledRouter>(made_up_router(shape, seed));
  for (float& x : router->embed) x *= 4;  // so that tokens differ in their experts
  return router;
}

struct Refactored {
  explicit Refactored(const std::string& router_hash) {
    file.arch = "readme-moe";
    file.counts = {{"block_count", kLayers},
                   {"context_length", 160},
                   {"embedding_length", kWidth},
                   {"attention.head_count", 2},
                   {"expert_count", kExperts},
                   {"expert_used_count", 1},
                   {"expert_shared_feed_forward_length", 32}};
    file.shapes = {{"token_embd.weight", {kWidth, kVocab}}, {"output_norm.weight", {kWidth}}};
    for (int i = 0; i < kLayers; ++i) {
      const auto shape = [&](const char* name, std::vector<uint64_t> ne) {
        file.shapes[fmt::format("blk.{}.{}.weight", i, name)] = std::move(ne);
      };
      for (const char* name : {"attn_norm", "ffn_norm"}) shape(name, {kWidth});
      for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
        shape(name, {kWidth, kWidth});
      }
      for (const char* name : {"ffn_gate_exps", "ffn_up_exps"}) shape(name, {kWidth, 32, kExperts});
      shape("ffn_down_exps", {32, kWidth, kExperts});
      for (const char* name : {"ffn_gate_shexp", "ffn_up_shexp"}) shape(name, {kWidth, 32});
      shape("ffn_down_shexp", {32, kWidth});
    }
    std::mt19937 rng(3);
    for (const auto& [name, ne] : file.shapes) {
      size_t n = 1;
      for (const uint64_t d : ne) n *= d;
      file.values[name] = normals(n, &rng, 0.4F);
    }
    file.extra.add("readme-moe.router.sha256", router_hash);
    file.extra.add("readme-moe.dense_architecture", "llama");
  }
  Model load() {
    image = file.file().build();
    return Model::load(GgufFile::from_memory(image, "m.gguf"));
  }

  TinyModel file;
  Bytes image;  // outlives the model
};

// Of each token: by a state of its own that sees the tokens one by one.
std::vector<int32_t> experts_of(const DecoupledRouter& router, const Tokens& tokens) {
  DecoupledState state(router, 64, 1);
  std::vector<int32_t> experts;
  for (const int32_t token : tokens) {
    const std::span<const float> logits = state.append({&token, 1});
    experts.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
  }
  return experts;
}

Tokens some_tokens(size_t n) {
  Tokens tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<int32_t>((7 * i * i + 3 * i + 5) % kVocab);
  return tokens;
}

EngineSettings with_router(EngineSettings settings, std::shared_ptr<const DecoupledRouter> router) {
  settings.router = std::move(router);
  settings.pregate_from.assign("r.safetensors");
  settings.n_ctx = 64;
  return settings;
}

}  // namespace

TEST_CASE("a refactored model uses the expert that its router says, in every layer") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const Tokens tokens = some_tokens(30);
  const std::vector<int32_t> expected = experts_of(*router, tokens);
  CHECK(std::ranges::count(expected, expected.front()) < 30);
  for (const int device : {0, 1, 2}) {
    INFO("device " << device);
    EngineSettings settings = device == 0   ? cpu_settings()
                              : device == 1 ? sim_settings(4)
                                            : cuda_settings(4);
    settings.n_batch = 7;
    Engine engine(model, test_machine(), with_router(settings, router));
    std::vector<std::vector<int32_t>> used(kLayers);
    engine.set_routing_hook([&](const RoutingDecision& routing) {
      for (const ExpertId id : routing.ids) {
        used[static_cast<size_t>(routing.layer.value)].push_back(id.value);
      }
      CHECK(std::ranges::all_of(routing.weights, [](float w) { return w == 1; }));
    });
    engine.eval(std::span(tokens).first(20));
    engine.rewind(15);
    for (auto& ids : used) ids.resize(15);
    for (size_t i = 15; i < 30; ++i) engine.eval(std::span(tokens).subspan(i, 1));
    for (const auto& ids : used) CHECK(ids == expected);
  }
}

TEST_CASE("a refactored model gives the same on all devices, however its tokens are batched") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const Tokens tokens = some_tokens(20);
  const auto logits = [&](EngineSettings settings, int64_t n_batch) {
    settings.n_batch = n_batch;
    return all_logits(model, with_router(std::move(settings), router), tokens);
  };
  const std::vector<float> reference = logits(cpu_settings(), 64);
  CHECK(relative_error(logits(cpu_settings(), 3), reference) < 1e-5);
  for (const int32_t slots : {0, 3, 12}) {
    CHECK(relative_error(logits(sim_settings(slots), 5), reference) < 1e-4);
    CHECK(relative_error(logits(cuda_settings(slots), 5), reference) < 0.02);
  }
  // Other experts, other results.
  const auto other = random_router(2);
  REQUIRE(experts_of(*other, tokens) != experts_of(*router, tokens));
  Refactored again(decoupled_hash(*other));
  const Model second = again.load();
  const std::vector<float> others = all_logits(second, with_router(cpu_settings(), other), tokens);
  CHECK(relative_error(others, reference) > 0.01);
}

TEST_CASE(
    "a refactored model can be stopped while its router reads, and goes on as if it had not") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const Tokens tokens = some_tokens(150);
  const auto settings_of = [&](const EngineSettings& some) {
    EngineSettings settings = with_router(some, router);
    settings.n_ctx = 160;
    settings.n_batch = 100;
    settings.n_threads = 2;
    return settings;
  };
  for (const EngineSettings& settings :
       {settings_of(cpu_settings()), settings_of(sim_settings(3)), settings_of(cuda_settings(3))}) {
    Engine fresh(model, test_machine(), settings);
    const std::span<const float> logits = fresh.eval(tokens);
    const std::vector<float> expected(logits.begin(), logits.end());

    Engine engine(model, test_machine(), settings);
    // Before any token is routed, between the first tokens and the others, and in the layers.
    for (const int stop_at : {1, 2, 5}) {
      int calls = 0;
      const auto stopped = engine.eval(tokens, 1, [&](int64_t done) {
        CHECK(done <= 100);
        return ++calls < stop_at;
      });
      CHECK(calls == stop_at);
      CHECK(stopped.empty());
      CHECK(engine.position() == 0);
    }
    int at_start = 0;
    const auto count = [&](int64_t done) { return at_start += done == 0 ? 1 : 0, true; };
    CHECK(std::ranges::equal(engine.eval(tokens, 1, count), expected));
    CHECK(at_start == 4);  // 64, 36 and 50 tokens are routed; then the first layer
  }
}

TEST_CASE("what a router has chosen for later layers is known, not guessed") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  Engine engine(model, test_machine(), with_router(sim_settings(6), router));
  const auto line = std::ranges::find(engine.effective(), "predictor", &EffectiveSetting::name);
  CHECK(line->effective == "decoupled");
  int64_t layers = 0;
  engine.set_routing_hook([&](const RoutingDecision& routing) {
    CHECK(routing.exact_ahead);
    ++layers;
  });
  greedy(engine, some_tokens(9), 12);
  CHECK(layers > 12 * kLayers);
  for (int32_t d = 1; d < kLayers; ++d) CHECK(engine.lookahead_scores()->of(d).recall == 1);
}

TEST_CASE("where every expert has a slot nothing is said of what a router has chosen for later") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const auto all = static_cast<int32_t>(model.config().n_layers) * model.config().routing.n_experts;
  Engine some(model, test_machine(), with_router(sim_settings(6), router));
  Engine whole(model, test_machine(), with_router(sim_settings(all), router));
  CHECK(whole.n_slots() == all);
  whole.set_routing_hook([](const RoutingDecision& routing) { CHECK(routing.predicted.empty()); });
  CHECK(whole.lookahead_scores() == nullptr);
  CHECK(greedy(whole, some_tokens(9), 12) == greedy(some, some_tokens(9), 12));
}

TEST_CASE("a window of known tokens may decide who leaves, where a router has chosen") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const Tokens tokens = some_tokens(30);
  const auto settings = [&](const char* policy) {
    EngineSettings wanted = with_router(sim_settings(5), router);
    wanted.n_batch = 3;
    wanted.cache_policy = policy;
    return wanted;
  };
  const std::vector<float> reference =
      all_logits(model, with_router(cpu_settings(), router), tokens);
  CHECK(relative_error(all_logits(model, settings("windowed-belady"), tokens), reference) < 1e-4);
  CHECK_THROWS_WITH(all_logits(model, settings("belady"), tokens), contains("knows the future"));
}

TEST_CASE("the next use of an expert among known tokens is found as by looking through them") {
  const auto router = random_router(5);
  ModelConfig config;
  config.n_layers = kLayers;
  config.n_vocab = kVocab;
  config.routing = {kExperts, 1, ScoreFunction::kSoftmax, true};
  EngineShape shape;
  shape.n_ctx = 64;
  shape.n_batch = 2;
  shape.router = router;
  DecoupledRoutes routes(config, shape);
  const Tokens tokens = some_tokens(19);
  const std::vector<int32_t> experts = experts_of(*router, tokens);
  REQUIRE(routes.know(std::span(tokens).first(4), 0) == DecoupledRoutes::Known::kAll);
  REQUIRE(routes.know(std::span(tokens).subspan(4), 4) == DecoupledRoutes::Known::kAll);
  bool news = true;
  for (size_t first = 4; first < tokens.size(); first += 2) {
    const size_t n = std::min<size_t>(2, tokens.size() - first);
    const Batch batch{std::span(tokens).subspan(first, n), static_cast<int64_t>(first), 0};
    for (int32_t now = 0; now < kLayers; ++now) {
      routes.visit(batch, LayerId{now});
      CHECK(routes.reordered().size() == (news ? kLayers : 0));
      news = false;
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        for (int32_t e = 0; e < kExperts; ++e) {
          double expected = std::numeric_limits<double>::infinity();
          int visits = 0;
          for (size_t t = first; t < tokens.size() && std::isinf(expected); t += 2) {
            for (int32_t at = t == first ? now + 1 : 0; at < kLayers; ++at) {
              ++visits;
              const bool used = experts[t] == e || (t + 1 < tokens.size() && experts[t + 1] == e);
              if (at == layer && used && std::isinf(expected)) expected = visits;
            }
          }
          CHECK(routes.next_use({LayerId{layer}, ExpertId{e}}) == expected);
        }
      }
    }
  }
}

TEST_CASE("a plan counts what a router remembers of the context among the host's memory") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const EngineSettings settings = with_router(sim_settings(4), router);
  const MachineProfile machine = test_machine();
  const OpenDevice device = open_device(settings, machine);
  std::vector<EffectiveSetting> lines;
  const EngineShape shape = choose_shape(model, machine, settings, *device.device, &lines);
  const MemoryPlan plan = plan_memory(model, *device.device, machine, shape, cache_wish(settings));
  const auto counted = std::ranges::find(plan.host, "router", &TaggedBytes::tag);
  REQUIRE(counted != plan.host.end());
  // Keys and values of one block of width 8, and logits of four experts, of 64 positions at least.
  CHECK(counted->bytes >= 64 * (2 * 8 + 4) * 4);
}

TEST_CASE("a refactored model runs with its own router and no other") {
  const auto router = random_router(1);
  Refactored refactored(decoupled_hash(*router));
  const Model model = refactored.load();
  const auto refusal = [](const Model& of, const EngineSettings& settings) {
    return error_of([&] { const Engine engine(of, test_machine(), settings); });
  };
  CHECK_THROWS_WITH(Engine(model, test_machine(), cpu_settings()),
                    contains("have no routers; expected --pregate FILE"));
  CHECK_THAT(refusal(model, with_router(cpu_settings(), random_router(2))),
             contains("r.safetensors: it is for another model: SHA-256"));
  auto small = random_router(1);
  small->shape.n_experts = 3;
  small->out.resize(3 * 8);
  CHECK_THAT(refusal(model, with_router(cpu_settings(), small)),
             contains("experts: expected 4, got 3"));
  const Model demo = Model::load(GgufFile::open(kDemoModel));
  CHECK_THAT(refusal(demo, with_router(cpu_settings(), router)), contains("routers of its own"));
  const auto load = [](const std::string& hash) {
    return error_of([&] { Refactored(hash).load(); });
  };
  CHECK_THAT(load("abc"), contains("readme-moe.router.sha256 is \"abc\"; expected 64 hexadecimal"));
  auto infinite = random_router(1);
  infinite->out[0] = std::numeric_limits<float>::infinity();
  Refactored file(decoupled_hash(*infinite));
  const Model damaged = file.load();
  Engine engine(damaged, test_machine(), with_router(cpu_settings(), infinite));
  CHECK_THAT(error_of([&] { engine.eval(some_tokens(3)); }), contains("not finite"));
}

}  // namespace tandem::test
