// The router against its definition in double precision.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/routing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

struct Chosen {
  int id;
  double weight;
};

struct Reference {
  std::vector<Chosen> chosen;  // heaviest first
  double margin;               // the smallest gap between neighbours that decided the selection
};

Reference reference(const RoutingRules& rules, const float* logits) {
  const auto n = static_cast<size_t>(rules.n_experts);
  std::vector<double> score(n);
  if (rules.score == ScoreFunction::kSoftmax) {
    const double top = *std::max_element(logits, logits + n);
    double sum = 0;
    for (size_t e = 0; e < n; ++e) sum += score[e] = std::exp(double{logits[e]} - top);
    for (double& s : score) s /= sum;
  } else {
    for (size_t e = 0; e < n; ++e) score[e] = 1 / (1 + std::exp(-double{logits[e]}));
  }
  std::vector<double> selection = score;
  for (size_t e = 0; e < rules.bias.size(); ++e) selection[e] += double{rules.bias[e]};
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return selection[static_cast<size_t>(a)] > selection[static_cast<size_t>(b)];
  });
  Reference out{{}, INFINITY};
  double sum = 0;
  for (int k = 0; k < rules.top_k; ++k) {
    const auto e = static_cast<size_t>(order[static_cast<size_t>(k)]);
    out.chosen.push_back({order[static_cast<size_t>(k)], score[e]});
    sum += score[e];
    if (k + 1 < rules.n_experts) {
      const auto next = static_cast<size_t>(order[static_cast<size_t>(k) + 1]);
      out.margin = std::min(out.margin, selection[e] - selection[next]);
    }
  }
  for (Chosen& c : out.chosen) {
    if (rules.normalize) c.weight /= sum;
    c.weight *= double{rules.scale};
  }
  return out;
}

std::vector<float> random_logits(std::mt19937& random, size_t n, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(n);
  for (float& x : logits) x = normal(random);
  return logits;
}

void compare(const RoutingRules& rules, float spread, uint32_t seed) {
  constexpr int kTokens = 64;
  std::mt19937 random(seed);
  const auto n = static_cast<size_t>(rules.n_experts);
  const auto logits = random_logits(random, kTokens * n, spread);
  Router router(rules, kTokens);
  RoutingDecision got;
  REQUIRE(router.route(LayerId{3}, logits.data(), kTokens, &got));
  CHECK(got.layer == LayerId{3});
  CHECK(got.n_tokens == kTokens);
  CHECK(got.top_k == rules.top_k);
  int compared = 0;
  for (size_t t = 0; t < kTokens; ++t) {
    const Reference want = reference(rules, logits.data() + t * n);
    if (want.margin < 1e-7) continue;  // single precision may see a tie where double doesn't
    ++compared;
    for (size_t k = 0; k < want.chosen.size(); ++k) {
      const size_t at = t * static_cast<size_t>(rules.top_k) + k;
      REQUIRE(got.ids[at].value == want.chosen[k].id);
      REQUIRE(got.weights[at] == Approx(want.chosen[k].weight).epsilon(2e-6));
    }
  }
  CHECK(compared >= kTokens / 2);
}

RoutingRules rules(int n, int k, ScoreFunction score = ScoreFunction::kSoftmax) {
  RoutingRules r;
  r.n_experts = n;
  r.top_k = k;
  r.score = score;
  return r;
}

RoutingDecision route(Router& router, const std::vector<float>& logits) {
  RoutingDecision out;
  const auto n = static_cast<int32_t>(logits.size()) / router.rules().n_experts;
  REQUIRE(router.route(LayerId{0}, logits.data(), n, &out));
  return out;
}

std::vector<int> ids(const RoutingDecision& d) {
  std::vector<int> out;
  for (const ExpertId id : d.ids) out.push_back(id.value);
  return out;
}

TEST_CASE("softmax routing agrees with double precision") {
  compare(rules(8, 2), 1, 1);
  compare(rules(60, 4), 2, 2);
  compare(rules(128, 8), 3, 3);
  compare(rules(5, 5), 1, 4);
}

TEST_CASE("sigmoid routing agrees with double precision") {
  compare(rules(8, 2, ScoreFunction::kSigmoid), 1, 5);
  compare(rules(128, 8, ScoreFunction::kSigmoid), 2, 6);
}

TEST_CASE("normalised and scaled weights agree with double precision") {
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    RoutingRules r = rules(32, 6, score);
    r.normalize = true;
    r.scale = 2.5F;
    compare(r, 2, 7);
  }
}

TEST_CASE("routing with a selection bias agrees with double precision") {
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    std::mt19937 random(8);
    RoutingRules r = rules(32, 6, score);
    r.normalize = true;
    r.bias = random_logits(random, 32, 0.3F);
    compare(r, 2, 9);
  }
}

TEST_CASE("without normalisation softmax weights are shares of all experts") {
  Router router(rules(4, 2), 1);
  const auto d = route(router, {0, 0, 0, 0});
  CHECK(d.weights[0] == 0.25F);
  CHECK(d.weights[1] == 0.25F);
}

TEST_CASE("a bias selects an expert but does not enter its weight") {
  RoutingRules r = rules(3, 1, ScoreFunction::kSigmoid);
  r.bias = {0, 0, 10};
  Router router(r, 1);
  const auto d = route(router, {4, 2, 0});
  CHECK(ids(d) == std::vector<int>{2});
  CHECK(d.weights[0] == 0.5F);
}

TEST_CASE("a bias set later acts like one given at the start") {
  Router router(rules(3, 1), 1);
  CHECK(ids(route(router, {2, 1, 0})) == std::vector<int>{0});
  router.set_bias(std::vector<float>{0, 5, 0});
  CHECK(ids(route(router, {2, 1, 0})) == std::vector<int>{1});
}

TEST_CASE("ties go to the lower id") {
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    Router router(rules(6, 3, score), 1);
    CHECK(ids(route(router, {1, 1, 1, 1, 1, 1})) == std::vector<int>{0, 1, 2});
    CHECK(ids(route(router, {0, 3, 0, 3, 0, 3})) == std::vector<int>{1, 3, 5});
    CHECK(ids(route(router, {0, 3, 2, 2, 2, 2})) == std::vector<int>{1, 2, 3});
  }
}

TEST_CASE("normalised weights of one token sum to the scale") {
  RoutingRules r = rules(16, 4);
  r.normalize = true;
  r.scale = 1.5F;
  std::mt19937 random(10);
  Router router(r, 1);
  const auto d = route(router, random_logits(random, 16, 2));
  CHECK(std::accumulate(d.weights.begin(), d.weights.end(), 0.0) == Approx(1.5));
}

TEST_CASE("the only expert of a layer always runs, with weight one") {
  Router router(rules(1, 1), 2);
  const auto d = route(router, {-80, 80});
  CHECK(ids(d) == std::vector<int>{0, 0});
  CHECK(d.weights[0] == 1.0F);
  CHECK(d.loads.size() == 1);
  CHECK(d.loads[0].count == 2);
}

TEST_CASE("finite logits far apart give finite weights") {
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    RoutingRules r = rules(4, 3, score);
    r.normalize = true;
    Router router(r, 1);
    for (const auto& logits : {std::vector<float>{3e38F, -3e38F, 0, 1},
                               std::vector<float>{-3e38F, -3e38F, -3e38F, -3e38F}}) {
      const auto d = route(router, logits);
      for (const float w : d.weights) CHECK(std::isfinite(w));
    }
  }
}

TEST_CASE("a logit that is not finite makes routing fail with an empty result") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
      for (const size_t where : {0, 3, 7}) {
        std::vector<float> logits(8, 0.5F);
        logits[where] = bad;
        Router router(rules(4, 2, score), 2);
        RoutingDecision out;
        CHECK_FALSE(router.route(LayerId{0}, logits.data(), 2, &out));
        CHECK(out.ids.empty());
        CHECK(out.loads.empty());
        CHECK(out.tokens.empty());
      }
    }
  }
}

TEST_CASE("the router works again after logits that were not finite") {
  Router router(rules(2, 1), 1);
  const std::vector<float> bad{NAN, 0};
  RoutingDecision out;
  REQUIRE_FALSE(router.route(LayerId{0}, bad.data(), 1, &out));
  CHECK(ids(route(router, {0, 1})) == std::vector<int>{1});
}

TEST_CASE("a batch without tokens activates nobody") {
  Router router(rules(4, 2), 3);
  RoutingDecision out;
  CHECK(router.route(LayerId{0}, nullptr, 0, &out));
  CHECK(out.loads.empty());
  CHECK(out.ids.empty());
}

TEST_CASE("a token routes alike alone and in a batch") {
  std::mt19937 random(11);
  const auto logits = random_logits(random, size_t{5} * 16, 2);
  Router router(rules(16, 4), 5);
  const auto batch = ids(route(router, logits));
  for (size_t t = 0; t < 5; ++t) {
    const std::vector<float> row(logits.begin() + static_cast<int>(t * 16),
                                 logits.begin() + static_cast<int>(t * 16 + 16));
    CHECK(ids(route(router, row)) == std::vector<int>(batch.begin() + static_cast<int>(t * 4),
                                                      batch.begin() + static_cast<int>(t * 4 + 4)));
  }
}

TEST_CASE("no token uses an expert twice") {
  std::mt19937 random(12);
  Router router(rules(8, 6), 200);
  const auto d = route(router, random_logits(random, size_t{200} * 8, 30));
  for (size_t t = 0; t < 200; ++t) {
    std::vector<ExpertId> row(d.ids.begin() + static_cast<int>(t * 6),
                              d.ids.begin() + static_cast<int>(t * 6 + 6));
    std::sort(row.begin(), row.end());
    CHECK(std::adjacent_find(row.begin(), row.end()) == row.end());
  }
}

TEST_CASE("both views hold every token, expert and weight exactly once") {
  std::mt19937 random(13);
  Router router(rules(12, 3), 50);
  for (const int n_tokens : {1, 2, 7, 50}) {
    const auto d = route(router, random_logits(random, static_cast<size_t>(n_tokens) * 12, 2));
    std::map<std::pair<int, int>, float> by_token;
    for (size_t i = 0; i < d.ids.size(); ++i) {
      by_token[{static_cast<int>(i / 3), d.ids[i].value}] = d.weights[i];
    }
    std::map<std::pair<int, int>, float> by_expert;
    for (const ExpertLoad& load : d.loads) {
      for (int i = load.first; i < load.first + load.count; ++i) {
        const RoutedToken& use = d.tokens[static_cast<size_t>(i)];
        by_expert[{use.token, load.expert.value}] = use.weight;
      }
    }
    CHECK(by_token.size() == d.ids.size());
    CHECK(d.tokens.size() == d.ids.size());
    CHECK(by_expert == by_token);
  }
}

TEST_CASE("loads go by expert id, their runs lie end to end, and rows ascend within a run") {
  std::mt19937 random(14);
  Router router(rules(12, 3), 40);
  const auto d = route(router, random_logits(random, size_t{40} * 12, 2));
  int next = 0;
  int last_expert = -1;
  for (const ExpertLoad& load : d.loads) {
    CHECK(load.expert.value > last_expert);
    CHECK(load.first == next);
    CHECK(load.count > 0);
    for (int i = load.first + 1; i < load.first + load.count; ++i) {
      CHECK(d.tokens[static_cast<size_t>(i)].token > d.tokens[static_cast<size_t>(i) - 1].token);
    }
    last_expert = load.expert.value;
    next = load.first + load.count;
  }
  CHECK(next == 40 * 3);
}

TEST_CASE("ranks go on behind the selection, with the gate's scores over all experts") {
  RoutingRules both = rules(4, 2, ScoreFunction::kSoftmax);
  both.normalize = true;
  Router router(both, 1, 3);
  // Shares 0.5, 0.125, 0.125 and 0.25 of all.
  const RoutingDecision d = route(router, {std::log(4.0F), 0, 0, std::log(2.0F)});
  CHECK(ids(d) == std::vector<int>{0, 3});
  CHECK(d.weights[0] == Approx(2.0 / 3));
  REQUIRE(d.n_ranks == 3);
  REQUIRE(d.ranked.size() == 3);
  CHECK(d.ranked[0].value == 0);
  CHECK(d.ranked[1].value == 3);
  CHECK(d.ranked[2].value == 1);
  CHECK(d.scores[0] == Approx(0.5));
  CHECK(d.scores[1] == Approx(0.25));
  CHECK(d.scores[2] == Approx(0.125));
}

TEST_CASE("selecting alone chooses whom routing chooses, and leaves what was routed") {
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}) {
    RoutingRules biased = rules(16, 4, score);
    for (int e = 0; e < 16; ++e) biased.bias.push_back(0.1F * static_cast<float>(e % 3));
    Router router(biased, 8);
    Router other(biased, 8);
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::vector<float> logits(8 * 16);
    std::vector<float> later(logits.size());
    for (float& x : logits) x = normal(random);
    for (float& x : later) x = normal(random);
    RoutingDecision now;
    RoutingDecision expected;
    REQUIRE(router.route(LayerId{0}, logits.data(), 8, &now));
    const std::vector<ExpertId> before(now.ids.begin(), now.ids.end());
    std::vector<ExpertId> selected(8 * 4);
    REQUIRE(router.select(later.data(), 8, selected));
    REQUIRE(other.route(LayerId{1}, later.data(), 8, &expected));
    CHECK(std::equal(selected.begin(), selected.end(), expected.ids.begin()));
    CHECK(std::equal(before.begin(), before.end(), now.ids.begin()));
  }
}

TEST_CASE("selecting from a logit that is not finite fails") {
  Router router(rules(3, 1), 1);
  std::vector<ExpertId> selected(1);
  CHECK_FALSE(router.select(std::vector<float>{0, NAN, 0}.data(), 1, selected));
}

TEST_CASE("rules that choose no expert, or more than there are, fail a check") {
  CHECK(dies([] { const Router router(rules(4, 0), 1); }));
  CHECK(dies([] { const Router router(rules(4, 5), 1); }));
  CHECK(dies([] { const Router router(rules(4, 2), 1, 5); }));
}

TEST_CASE("more tokens than the router was made for fail a check") {
  Router router(rules(2, 1), 2);
  const std::vector<float> logits(6, 0.0F);
  RoutingDecision out;
  CHECK(dies([&] { router.route(LayerId{0}, logits.data(), 3, &out); }, "room for 2"));
}

}  // namespace
TEST_CASE("experts that are ranked already are arranged as the router's own") {
  std::mt19937 random(11);
  const RoutingRules of = rules(32, 4);
  constexpr int kTokens = 21;
  const auto logits = random_logits(random, size_t{kTokens} * 32, 2);
  Router router(of, kTokens, 8);
  const RoutingDecision own = route(router, logits);
  Router other(of, kTokens, 8);
  RoutingDecision got;
  REQUIRE(other.arrange(LayerId{0}, own.ranked, own.scores.data(), kTokens, &got));
  CHECK(std::equal(got.ids.begin(), got.ids.end(), own.ids.begin(), own.ids.end()));
  CHECK(std::equal(got.ranked.begin(), got.ranked.end(), own.ranked.begin()));
  CHECK(std::equal(got.weights.begin(), got.weights.end(), own.weights.begin()));
  CHECK(got.loads.size() == own.loads.size());
  for (size_t i = 0; i < own.tokens.size(); ++i) {
    REQUIRE(got.tokens[i].token == own.tokens[i].token);
  }
  for (const int32_t bad : {-1, 32}) {
    std::vector<ExpertId> wrong(own.ranked.begin(), own.ranked.end());
    wrong[5] = ExpertId{bad};
    CHECK_FALSE(other.arrange(LayerId{0}, wrong, own.scores.data(), kTokens, &got));
    CHECK(got.ids.empty());
  }
}

}  // namespace tandem::test
