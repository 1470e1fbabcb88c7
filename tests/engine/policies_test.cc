// The engine under the same scheduling policies as the simulator.
#include "kernels/dot_tile.h"
#include "kernels/onednn_tile.h"
#include "runtime/config/embedded.h"
#include "runtime/config/scheduling_policy.h"
#include "runtime/engine/engine_scheduling.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/random_pregate.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

std::vector<SchedulingSettings> causal_policies() {
  std::vector<SchedulingSettings> policies;
  for (const EmbeddedFile& file : embedded_policies()) {
    if (file.name != "clairvoyant") {
      policies.push_back(load_scheduling_policy(std::string(file.name)));
    }
  }
  return policies;
}

EngineSettings with_policy(const std::string& name, int32_t slots = 40) {
  EngineSettings settings = sim_settings(slots);
  settings.scheduling = load_scheduling_policy(name);
  return settings;
}

EffectiveSetting line(const Engine& engine, const std::string& name) {
  for (const EffectiveSetting& setting : engine.effective()) {
    if (setting.name == name) return setting;
  }
  FAIL("no setting " << name);
  return {};
}

std::string refusal(const EngineSettings& settings) {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  try {
    const Engine engine(model, test_machine(), settings);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "taken";
}

const std::vector<int32_t> kPrompt{4093, 3384, 794, 258, 535, 438, 307, 258, 794, 3384, 258, 535};

}  // namespace

TEST_CASE("every policy changes logits by rounding at most, and no greedy token") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  Engine cpu(model, test_machine(), cpu_settings());
  const std::vector<int32_t> answer = greedy(cpu, kPrompt, 40);
  const std::vector<float> logits = all_logits(model, cpu_settings(), kPrompt);
  const std::vector<SchedulingSettings> policies = causal_policies();
  REQUIRE(policies.size() >= 13);
  for (const SchedulingSettings& policy : policies) {
    for (const int32_t slots : {1, 7, 48, 192}) {
      INFO(policy.name << ", slots " << slots);
      EngineSettings settings = sim_settings(slots);
      settings.scheduling = policy;
      Engine engine(model, test_machine(), settings);
      CHECK(greedy(engine, kPrompt, 40) == answer);
      CHECK(relative_error(all_logits(model, settings, kPrompt), logits) <= 1e-4);
    }
  }
}

TEST_CASE("no policy changes a greedy token for a lookahead that is wrong and sure of itself") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  Engine cpu(model, test_machine(), cpu_settings());
  const std::vector<int32_t> answer = greedy(cpu, kPrompt, 16);
  int64_t started = 0;
  for (const SchedulingSettings& policy : causal_policies()) {
    for (const int32_t slots : {-1, 7, 48}) {  // -1: the CPU alone
      INFO(policy.name << ", slots " << slots);
      EngineSettings settings = slots < 0 ? cpu_settings() : sim_settings(slots);
      settings.scheduling = policy;
      settings.pregate = random_pregate(model, 3);
      Engine engine(model, test_machine(), settings);
      CHECK(greedy(engine, kPrompt, 16) == answer);
      started += engine.stats().prefetched.started;
    }
  }
  CHECK(started > 0);
}

TEST_CASE("policies place experts differently") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto experts = [&](const char* policy) {
    Engine engine(model, test_machine(), with_policy(policy, 96));
    greedy(engine, kPrompt, 20);
    return engine.stats();
  };
  CHECK(experts("cpu").experts.experts_gpu == 0);
  CHECK(experts("adapmoe").experts.experts_cpu == 0);
  CHECK(experts("adapmoe").prefetched.started == 0);
  CHECK(experts("tandem").prefetched.started > 0);
  CHECK(experts("hybrimoe").prefetched.started > 0);
  CHECK(experts("hybrimoe-published").prefetched.started == 0);
}

TEST_CASE("a policy that must know the future is refused in one line that names it") {
  CHECK(refusal(with_policy("clairvoyant")) ==
        "policy \"clairvoyant\" knows the future (eviction belady, prefetcher clairvoyant); only "
        "tandem simulate can use it");
  EngineSettings overridden = with_policy("clairvoyant");
  overridden.cache_policy = "lru";
  CHECK_THAT(refusal(overridden), contains("prefetcher clairvoyant"));
  EngineSettings belady = with_policy("tandem");
  belady.cache_policy = "belady";
  CHECK_THAT(refusal(belady), contains("eviction belady"));
}

TEST_CASE("settings on their own beat those of the policy, and the lines say so") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = with_policy("mrs");
  settings.cache_policy = "lfu";
  settings.cache_inserts = 5;
  const Engine engine(model, test_machine(), settings);
  CHECK(line(engine, "policy").effective == "mrs");
  CHECK(line(engine, "cache policy").effective == "lfu");
  CHECK_THAT(line(engine, "cache policy").reason, contains("instead of the policy's mrs"));
  CHECK(line(engine, "cache inserts").effective == "5");
  CHECK_THAT(line(engine, "cache inserts").reason, contains("instead of the policy's 2"));
}

TEST_CASE("what the engine cannot honour of a policy has a line with the reason") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (const SchedulingSettings& policy : causal_policies()) {
    for (EngineSettings settings : {cpu_settings(), sim_settings(0), sim_settings(40)}) {
      settings.scheduling = policy;
      const Engine engine(model, test_machine(), settings);
      for (const EffectiveSetting& setting : engine.effective()) {
        INFO(policy.name << ": " << setting.name);
        CHECK((setting.effective == setting.requested || setting.name == "expert slots" ||
               !setting.reason.empty()));
      }
      const bool cached = engine.n_slots() > 0;
      CHECK(line(engine, "prefetcher").effective == (cached ? policy.prefetcher : "none"));
      CHECK(line(engine, "predictor").requested == policy.predictor);
    }
  }
}

TEST_CASE("without expert slots no policy learns and no prefetcher weighs") {
  EngineSettings settings = cpu_settings();
  settings.scheduling = load_scheduling_policy("tandem");
  std::vector<EffectiveSetting> lines;
  const SchedulingSettings without = effective_scheduling(settings, {false, true, false}, &lines);
  CHECK(without.policy == "static");
  CHECK(without.prefetcher == "none");
  const SchedulingSettings with = effective_scheduling(settings, {true, true, false}, &lines);
  CHECK(with.policy == "learned");
  CHECK(with.prefetcher == "impact");
}

TEST_CASE("gates are reused where the policy's predictor asks for it, or a trace does") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto distances = [&](const EngineSettings& settings) {
    Engine engine(model, test_machine(), settings);
    int32_t n = -1;
    engine.set_routing_hook([&](const RoutingDecision& routing) { n = routing.n_ahead; });
    engine.eval(kPrompt);
    return n;
  };
  CHECK(distances(with_policy("tandem")) == 3);
  CHECK(distances(with_policy("hybrimoe")) == 3);
  CHECK(distances(with_policy("hybrimoe-published")) == 0);
  CHECK(distances(with_policy("tandem", 0)) == 0);
  CHECK(distances(cpu_settings()) == 0);
  EngineSettings traced = cpu_settings();
  traced.recorded_distances = 2;
  CHECK(distances(traced) == 2);
}

TEST_CASE("oneDNN is not used, and not said to be, for more tokens than a tile of products holds") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  MachineProfile machine = test_machine();
  machine.cpu.onednn_bf16_tokens = kTokenTile + 1;
  const Engine engine(model, machine, cpu_settings());
  CHECK(onednn_from() == kOnednnNever);
  for (const EffectiveSetting& setting : engine.effective()) {
    if (setting.name == "onednn") CHECK(setting.effective == "never");
  }
  CHECK(std::any_of(engine.effective().begin(), engine.effective().end(),
                    [](const EffectiveSetting& setting) { return setting.name == "onednn"; }));
}

TEST_CASE(
    "where every expert has a slot all are there before the first token, and none is guessed") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto all = static_cast<int32_t>(model.config().n_layers) * model.config().routing.n_experts;
  for (const bool enough : {true, false}) {
    INFO("a slot for each: " << enough);
    Engine engine(model, test_machine(), sim_settings(enough ? all : all - 1));
    const auto effective = [&](const std::string& name) {
      for (const EffectiveSetting& one : engine.effective()) {
        if (one.name == name) return one.effective + ": " + one.reason;
      }
      return std::string();
    };
    CHECK((effective("contents") == "everything: every expert has a slot") == enough);
    CHECK((effective("predictor") == "none: every expert has a slot") == enough);
    const EngineStats loaded = engine.stats();
    CHECK(loaded.bytes_h2d == 0);
    greedy(engine, kPrompt, 4);
    const EngineStats stats = engine.stats();
    CHECK((stats.cache.misses == 0) == enough);
    CHECK((engine.lookahead_scores() == nullptr) == enough);
    engine.rewind(0);
    greedy(engine, kPrompt, 4);
    const double first = stats.modelled_seconds - loaded.modelled_seconds;
    const double second = engine.stats().modelled_seconds - stats.modelled_seconds;
    if (enough) CHECK(first < 1.05 * second);  // it has not waited for what was loaded
  }
}

}  // namespace tandem::test
