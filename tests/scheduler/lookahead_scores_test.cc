#include "scheduler/lookahead_scores.h"

#include <random>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// A token's layer of six experts, top 2, with guesses for the next layers.
struct Seen {
  std::vector<ExpertId> ids;
  std::vector<ExpertId> predicted;
  std::vector<float> use;
  RoutingDecision decision;

  Seen(int layer, std::vector<int> used, const std::vector<std::vector<int>>& guesses,
       std::vector<float> p = {})
      : use(std::move(p)) {
    for (const int e : used) ids.push_back(ExpertId{e});
    for (const auto& guess : guesses) {
      for (const int e : guess) predicted.push_back(ExpertId{e});
    }
    decision.layer = LayerId{layer};
    decision.n_tokens = 1;
    decision.top_k = 2;
    decision.ids = ids;
    decision.n_ahead = static_cast<int32_t>(guesses.size());
    decision.predicted = predicted;
    decision.predicted_use = use;
  }
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;
};

}  // namespace

TEST_CASE("guesses are held against the layer that they were made for") {
  LookaheadScores scores(3, 6, 2, 2);
  scores.observe(Seen(0, {0, 1}, {{2, 3}, {4, 5}}).decision);
  scores.observe(Seen(1, {2, 0}, {{4, 1}, {-1, -1}}).decision);
  scores.observe(Seen(2, {5, 4}, {{-1, -1}, {-1, -1}}).decision);
  CHECK(scores.of(1, 1).tokens == 1);
  CHECK(scores.of(1, 1).recall == Approx(0.5));  // 2 of {2, 0}
  CHECK(scores.of(1, 1).exact == 0);
  CHECK(scores.of(2, 2).recall == Approx(1));  // {4, 5}
  CHECK(scores.of(2, 2).exact == 1);
  CHECK(scores.of(2, 1).recall == Approx(0.5));
  CHECK(scores.of(1).tokens == 2);
  CHECK(scores.of(1).recall == Approx(0.5));
  CHECK(scores.of(2).tokens == 1);
  CHECK(scores.of(0, 1).tokens == 0);
  CHECK(scores.of(1, 1).calibrated == 0);
}

TEST_CASE("calibrated guesses have a wider recall and a Brier score") {
  LookaheadScores scores(2, 6, 2, 1);
  const std::vector<float> use{0.9F, 0.6F, 0.3F, 0.2F, 0, 0};
  scores.observe(Seen(0, {0, 1}, {{0, 1}}, use).decision);
  scores.observe(Seen(1, {0, 3}, {{-1, -1}}, std::vector<float>(6, 0.0F)).decision);
  const LookaheadScore score = scores.of(1, 1);
  CHECK(score.calibrated == 1);
  CHECK(score.recall == Approx(0.5));
  CHECK(score.recall_wide == Approx(1));  // among 0, 1, 2, 3
  CHECK(score.brier == Approx((0.01 + 0.36 + 0.09 + 0.64) / 6).epsilon(1e-6));
}

TEST_CASE("experts that a trace does not have are neither used nor guessed") {
  LookaheadScores scores(2, 6, 2, 1);
  scores.observe(Seen(0, {0, -1}, {{3, 5}}).decision);
  scores.observe(Seen(1, {5, -1}, {{-1, -1}}).decision);
  CHECK(scores.of(1).recall == Approx(1));  // of the one that was used
  CHECK(scores.of(1).exact == Approx(1));
  scores.observe(Seen(0, {0, 1}, {{3, -1}}).decision);
  scores.observe(Seen(1, {3, 4}, {{-1, -1}}).decision);
  CHECK(scores.of(1).tokens == 2);
  CHECK(scores.of(1).recall == Approx(0.75));
  scores.observe(Seen(0, {0, 1}, {{3, 4}}).decision);
  scores.observe(Seen(1, {-1, -1}, {{-1, -1}}).decision);  // the token did not pass here
  CHECK(scores.of(1).tokens == 2);
}

TEST_CASE("steps of several tokens are not scored, and a guess is scored once") {
  LookaheadScores scores(2, 6, 2, 1);
  Seen prompt(0, {0, 1, 2, 3}, {{0, 1, 2, 3}});
  prompt.decision.n_tokens = 2;
  scores.observe(prompt.decision);
  scores.observe(Seen(1, {0, 1}, {{-1, -1}}).decision);
  CHECK(scores.of(1).tokens == 0);
  scores.observe(Seen(0, {0, 1}, {{0, 1}}).decision);
  scores.observe(Seen(1, {0, 1}, {{-1, -1}}).decision);
  scores.observe(Seen(1, {0, 1}, {{-1, -1}}).decision);
  CHECK(scores.of(1).tokens == 1);
}

TEST_CASE("guesses for the next token are held against it, and count apart") {
  LookaheadScores scores(3, 6, 2, 2);
  scores.observe(Seen(1, {0, 1}, {{2, 3}, {4, 5}}).decision);  // of layer 2 and the next layer 0
  scores.observe(Seen(2, {2, 3}, {{0, 4}, {1, 5}}).decision);  // of the next layers 0 and 1
  scores.observe(Seen(0, {4, 1}, {{-1, -1}, {-1, -1}}).decision);
  scores.observe(Seen(1, {1, 5}, {{-1, -1}, {-1, -1}}).decision);
  CHECK(scores.of(0, 1).recall == Approx(0.5));  // 4 of {4, 1}
  CHECK(scores.of(0, 2).recall == Approx(0.5));
  CHECK(scores.of(1, 2).recall == Approx(1));
  CHECK(scores.of(1).tokens == 1);
  CHECK(scores.of(1).recall == Approx(1));
  CHECK(scores.of(2).tokens == 0);
  CHECK(scores.of_next_token(1).tokens == 1);
  CHECK(scores.of_next_token(1).recall == Approx(0.5));
  CHECK(scores.of_next_token(2).tokens == 2);
  CHECK(scores.of_next_token(2).recall == Approx(0.75));
}

TEST_CASE("a guess for the next token is void where that comes with others") {
  LookaheadScores scores(2, 6, 2, 1);
  scores.observe(Seen(1, {0, 1}, {{0, 1}}).decision);
  Seen batch(0, {0, 1, 2, 3}, {{-1, -1, -1, -1}});
  batch.decision.n_tokens = 2;
  scores.observe(batch.decision);
  scores.observe(Seen(0, {0, 1}, {{-1, -1}}).decision);
  CHECK(scores.of_next_token(1).tokens == 0);
}

TEST_CASE("of a distance longer than a token nothing is scored") {
  LookaheadScores scores(2, 6, 2, 3);
  for (int layer = 0; layer < 8; ++layer) {
    scores.observe(Seen(layer % 2, {0, 1}, {{0, 1}, {0, 1}, {0, 1}}).decision);
  }
  CHECK(scores.of_next_token(2).tokens == 6);
  CHECK(scores.of_next_token(3).tokens == 0);
}

}  // namespace tandem::test
