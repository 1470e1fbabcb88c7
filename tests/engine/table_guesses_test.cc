// Guesses from tables in the engine: that they are those of the tables, and change no result.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/quant.h"
#include "runtime/engine/next_token_guess.h"
#include "runtime/engine/sampler.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/random_pregate.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

const std::vector<std::string> kPredictors{"pair-table", "token-table", "draft-free"};

EngineSettings with_tables(EngineSettings settings, const std::string& predictor,
                           const std::shared_ptr<const Pregate>& pregate) {
  settings.scheduling.predictor = predictor;
  settings.pregate = pregate;
  settings.pregate_from.assign("side.safetensors");
  return settings;
}

std::vector<float> use_of(const RoutingDecision& routing, int32_t distance, size_t token,
                          size_t n_experts) {
  const size_t at = static_cast<size_t>(distance - 1) * static_cast<size_t>(routing.n_tokens);
  const auto use = routing.predicted_use.subspan((at + token) * n_experts, n_experts);
  return {use.begin(), use.end()};
}

// In double, from the numbers of the table.
std::vector<double> expected_pair(const ExpertTables& t, const PairLink& link,
                                  std::span<const ExpertId> used) {
  const auto n = static_cast<size_t>(t.n_experts);
  const int32_t target = link.source + link.distance;
  const std::vector<float>& hot = t.hot[static_cast<size_t>(target)];
  std::vector<double> z;
  for (size_t e = 0; e < n; ++e) {
    const double rate = std::clamp(static_cast<double>(hot[e]), 1e-4, 1 - 1e-4);
    double sum = std::log(rate / (1 - rate));
    for (const ExpertId id : used) {
      sum += static_cast<double>(f16_to_f32(link.adds[static_cast<size_t>(id.value) * n + e]));
    }
    z.push_back(sum);
  }
  std::vector<double> sorted = z;
  std::sort(sorted.rbegin(), sorted.rend());
  const double middle = (sorted[used.size() - 1] + sorted[used.size()]) / 2;
  for (double& v : z) {
    v = static_cast<double>(link.calib_scale) * (v - middle) +
        static_cast<double>(link.calib_offset);
    v = v > -6 ? 1 / (1 + std::exp(-v)) : 0;
  }
  return z;
}

}  // namespace

TEST_CASE("no predictor from tables changes a result, however wrong the tables are") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto wrong = pregate_with_random_tables(model, 3);
  const std::vector<int32_t> prompt{1, 5, 9, 13, 17, 200, 300, 400, 17, 9, 5, 1};
  Engine cpu(model, test_machine(), cpu_settings());
  const std::vector<int32_t> reference = greedy(cpu, prompt, 40);
  for (const std::string& predictor : kPredictors) {
    Engine guessing(model, test_machine(), with_tables(cpu_settings(), predictor, wrong));
    CHECK(greedy(guessing, prompt, 40) == reference);
    EngineSettings traced = with_tables(cpu_settings(), predictor, wrong);
    traced.recorded_distances = 3;
    Engine recording(model, test_machine(), traced);
    CHECK(greedy(recording, prompt, 40) == reference);
    CHECK(recording.lookahead_scores()->of(1).tokens > 0);
    for (const int32_t slots : {5, 40, 190}) {
      INFO(predictor << ", slots " << slots);
      Engine engine(model, test_machine(), with_tables(sim_settings(slots), predictor, wrong));
      CHECK(greedy(engine, prompt, 40) == reference);
      CHECK(engine.stats().prefetched.started > 0);
      CHECK(engine.lookahead_scores()->of(2).calibrated > 0);
      const bool wraps = engine.lookahead_scores()->of_next_token(1).tokens > 0;
      CHECK(wraps == (predictor == "draft-free"));
    }
  }
}

TEST_CASE("guesses from tables are those of the tables, for prompts and for single tokens") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 2);
  const ExpertTables& t = *pregate->tables;
  const auto n_experts = static_cast<size_t>(t.n_experts);
  const std::vector<int32_t> tokens{3, 7, 5, 4000, 3, 9};  // of which the table knows odd ones to 9
  for (const GuessTable table : {GuessTable::kPairs, GuessTable::kTokens}) {
    StepHarness harness(model, 3, 64, {1, 2, pregate, table});
    std::span<const int32_t> of_step;
    int64_t compared = 0;
    harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
      REQUIRE(routing.n_ahead == 2);
      for (int32_t d = 1; d <= 2; ++d) {
        const int32_t target = routing.layer.value + d;
        for (size_t i = 0; i < static_cast<size_t>(routing.n_tokens); ++i) {
          const std::vector<float> use = use_of(routing, d, i, n_experts);
          const size_t at = (static_cast<size_t>(d - 1) * of_step.size() + i) * 4;
          const auto ids = routing.predicted.subspan(at, 4);
          if (target >= 6) {
            CHECK_FALSE(ids[0].valid());
            CHECK(std::all_of(use.begin(), use.end(), [](float p) { return p == 0; }));
            continue;
          }
          ++compared;
          if (table == GuessTable::kTokens) {
            std::vector<float> expected(n_experts);
            token_use(t, target, t.tokens.row(of_step[i]), expected);
            CHECK(use == expected);
          } else {
            const PairLink* link = t.pair(routing.layer.value, d);
            const auto used = routing.ids.subspan(4 * i, 4);
            const std::vector<double> expected = expected_pair(t, *link, used);
            for (size_t e = 0; e < n_experts; ++e) {
              CHECK(std::abs(static_cast<double>(use[e]) - expected[e]) < 3e-3);
            }
          }
          // The selection are the most probable ones.
          float least = 1;
          for (const ExpertId id : ids) least = std::min(least, use[static_cast<size_t>(id.value)]);
          const auto above =
              std::count_if(use.begin(), use.end(), [&](float p) { return p > least; });
          CHECK(above < 4);
        }
      }
    });
    NoPrefetcher nothing;
    of_step = std::span(tokens).first(5);
    run_step({of_step, 0, 1}, harness.executor, harness.planner, harness.cache, nothing,
             harness.plan);
    of_step = std::span(tokens).last(1);
    run_step({of_step, 5, 1}, harness.executor, harness.planner, harness.cache, nothing,
             harness.plan);
    CHECK(compared == 6 * (5 + 4));
    CHECK(pregate->tables->tokens.row(4000) == -1);
  }
}

TEST_CASE("tables guess nothing where nothing is left to be fetched") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto all = static_cast<int32_t>(model.config().n_layers) * model.config().routing.n_experts;
  const auto pregate = pregate_with_random_tables(model, 2);
  const std::vector<int32_t> prompt{3, 7};
  std::vector<int32_t> expected;
  for (const std::string& predictor : kPredictors) {
    for (const bool enough : {false, true}) {
      const int32_t slots = enough ? all : all - 1;
      Engine engine(model, test_machine(), with_tables(sim_settings(slots), predictor, pregate));
      int64_t guessed = 0;
      engine.set_routing_hook([&](const RoutingDecision& routing) {
        guessed += std::ssize(routing.predicted) + std::ssize(routing.predicted_use);
      });
      const std::vector<int32_t> tokens = greedy(engine, prompt, 3);
      if (expected.empty()) expected = tokens;
      CHECK(tokens == expected);
      CHECK((guessed == 0) == enough);
      CHECK((engine.lookahead_scores() == nullptr) == enough);
    }
  }
}

TEST_CASE("what followed before is guessed for the next token, with its experts of then") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 3);
  CpuDevice device(test_machine());
  NextTokenGuess guess(model.config(), *pregate->tables, 64, device);
  const std::vector<int32_t> text{10, 11, 12, 50, 10, 11, 12};
  std::vector<std::vector<ExpertId>> used;  // [position] in every layer
  const auto step = [&](int64_t at) {
    guess.begin_step({std::span(text).subspan(static_cast<size_t>(at), 1), at, 1});
    const auto first = static_cast<int32_t>(4 * at % 32);
    used.push_back(
        {ExpertId{first}, ExpertId{first + 1}, ExpertId{first + 2}, ExpertId{first + 3}});
    RoutingDecision routing;
    routing.n_tokens = 1;
    routing.top_k = 4;
    routing.ids = used.back();
    for (int32_t l = 0; l < 6; ++l) {
      routing.layer = LayerId{l};
      guess.observe(routing);
    }
  };
  std::vector<float> use(32);
  for (int64_t at = 0; at < 4; ++at) {
    step(at);
    CHECK(guess.token() == -1);
    CHECK_FALSE(guess.guess(0, use));
  }
  step(4);
  CHECK(guess.token() == 11);
  step(5);
  CHECK(guess.token() == 12);
  step(6);
  CHECK(guess.token() == 50);
  REQUIRE(guess.guess(2, use));
  std::vector<ExpertId> best(4);
  largest(use, best);
  for (const ExpertId id : used[3]) CHECK(std::find(best.begin(), best.end(), id) != best.end());
  float sum = 0;
  for (const float p : use) sum += p;
  CHECK(sum == Approx(4 * 0.5));  // nothing is known yet of how often such a guess comes true
}

TEST_CASE("a text that never goes on as before is soon not guessed, and one that does is") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 3);
  CpuDevice device(test_machine());
  NextTokenGuess liar(model.config(), *pregate->tables, 512, device);
  NextTokenGuess honest(model.config(), *pregate->tables, 512, device);
  std::vector<float> use(32);
  for (int64_t at = 0; at < 300; ++at) {
    // 0 x 0 y 0 z …: behind a 0 always comes another one.
    const int32_t token = at % 2 == 0 ? 0 : static_cast<int32_t>(at);
    liar.begin_step({{&token, 1}, at, 1});
    const auto same = static_cast<int32_t>(at % 7);
    honest.begin_step({{&same, 1}, at, 1});
    if (at == 250) {
      CHECK(liar.token() == 249);
      CHECK_FALSE(liar.guess(0, use));
      CHECK(honest.guess(0, use));
    }
  }
}

TEST_CASE("a rewound text is forgotten from there on, and a prompt is not guessed behind") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 3);
  CpuDevice device(test_machine());
  NextTokenGuess guess(model.config(), *pregate->tables, 64, device);
  const std::vector<int32_t> prompt{1, 2, 3, 1, 2};
  guess.begin_step({prompt, 0, 1});
  CHECK(guess.token() == -1);
  const int32_t one = 1;
  guess.begin_step({{&one, 1}, 3, 1});
  CHECK(guess.token() == 2);
  const int32_t three = 3;
  guess.begin_step({{&three, 1}, 2, 1});  // the 1 behind it is gone
  CHECK(guess.token() == -1);
}

TEST_CASE("a predictor from tables is refused where there are none, and said where there are") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto bare = random_pregate(model, 2);
  const auto refusal = [&](const EngineSettings& settings) {
    try {
      const Engine engine(model, test_machine(), settings);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("taken");
  };
  const auto effective = [&](const EngineSettings& settings) {
    const Engine engine(model, test_machine(), settings);
    for (const EffectiveSetting& line : engine.effective()) {
      if (line.name == "predictor") return line;
    }
    return EffectiveSetting{};
  };
  for (const std::string& predictor : kPredictors) {
    CHECK(refusal(with_tables(sim_settings(20), predictor, bare)) ==
          fmt::format("the predictor {} needs the tables of a fitted lookahead; side.safetensors "
                      "has none; tandem pregate fit makes them",
                      predictor));
    EngineSettings without = with_tables(sim_settings(20), predictor, nullptr);
    CHECK_THAT(refusal(without), contains("; there is none;"));
    without.device = DeviceKind::kCpu;  // where nobody guesses
    CHECK(refusal(without) == "taken");
    const EffectiveSetting line =
        effective(with_tables(sim_settings(20), predictor, pregate_with_random_tables(model, 2)));
    CHECK(line.effective == predictor);
    const bool short_of = predictor == "pair-table";
    CHECK(line.reason ==
          (short_of ? "side.safetensors; it reaches 2 layers, the policy 3" : "side.safetensors"));
  }
}

TEST_CASE("where tables guess, the device holds nothing for it") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 3);
  const auto used = [&](const std::string& predictor) {
    const Engine engine(model, test_machine(), with_tables(sim_settings(20), predictor, pregate));
    return engine.device().used_bytes();
  };
  for (const std::string& predictor : kPredictors) CHECK(used(predictor) == used("hot-list"));
  CHECK(used("gate-reuse") > used("hot-list"));
}

TEST_CASE("looking up tables allocates nothing while decoding") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = pregate_with_random_tables(model, 3);
  for (const std::string& predictor : kPredictors) {
    EngineSettings settings = with_tables(sim_settings(40), predictor, pregate);
    settings.sim.check_hazards = false;  // which keeps records
    Engine engine(model, test_machine(), settings);
    Sampler sampler({}, model.config().n_vocab, engine.n_ctx());
    const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535};
    std::span<const float> logits = engine.eval(prompt);
    int64_t before = 0;
    for (int i = 0; i < 100; ++i) {
      if (i == 20) before = allocation_count;
      const int32_t token = sampler.sample(logits);
      sampler.accept(token);
      logits = engine.eval({&token, 1});
    }
    CHECK(allocation_count - before == 0);
  }
}

}  // namespace tandem::test
