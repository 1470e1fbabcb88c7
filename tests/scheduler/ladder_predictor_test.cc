#include "scheduler/ladder_predictor.h"

#include "tests/scheduler/observed.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr PredictorShape kShape{4, 8, 2};
constexpr int kVisits = 4000;  // of layers: a thousand tokens

// A token uses 0 and 1 of each layer, or, if it changes, others each time; the lookahead says
// `right` or what nobody uses.
void see(LadderPredictor* ladder, int visits, bool right, bool changes) {
  for (int i = 0; i < visits; ++i) {
    const auto used = [&](int layer_visits) {
      const int first = changes ? 2 * (layer_visits / 4 % 3) : 0;
      return std::vector<int>{first, first + 1};
    };
    std::vector<int> ahead;
    for (int d = 1; d <= 2; ++d) {
      for (const int e : right ? used(i + d) : std::vector<int>{6, 7}) ahead.push_back(e);
    }
    ladder->observe(Observed(i % 4, used(i), ahead).decision);
  }
}

std::string_view believed(const LadderPredictor& ladder, int32_t ahead) {
  for (const PredictorRung& rung : ladder.rungs(ahead)) {
    if (rung.believed) return rung.name;
  }
  return "?";
}

}  // namespace

TEST_CASE("a lookahead that is right is believed from the first token on") {
  LadderPredictor ladder(kShape);
  see(&ladder, 5, true, false);
  CHECK(loads_of(ladder, 1)[0] > 0.5F);
  see(&ladder, kVisits, true, true);
  for (const int32_t ahead : {1, 2}) {
    CHECK(believed(ladder, ahead) == "lookahead");
    CHECK(ladder.rungs(ahead)[1].layers_trusted == 0);
  }
}

TEST_CASE("where a lookahead is wrong the previous token is believed, until it is right again") {
  LadderPredictor ladder(kShape);
  see(&ladder, kVisits, false, false);
  for (const int32_t ahead : {1, 2}) {
    CHECK(believed(ladder, ahead) == "previous-token");
    CHECK(loads_of(ladder, ahead)[0] > 0.5F);
    CHECK(loads_of(ladder, ahead)[6] == 0);
  }
  see(&ladder, kVisits, true, true);  // the previous token's are not used again
  for (const int32_t ahead : {1, 2}) CHECK(believed(ladder, ahead) == "lookahead");
}

TEST_CASE("where nothing that is guessed comes true, nothing is guessed") {
  LadderPredictor ladder(kShape);
  see(&ladder, kVisits, false, true);
  for (const int32_t ahead : {1, 2}) {
    CHECK(believed(ladder, ahead) == "none");
    CHECK(loads_of(ladder, ahead).empty());
  }
  see(&ladder, kVisits, true, true);
  CHECK(believed(ladder, 1) == "lookahead");
}

TEST_CASE("predictors that are as good as each other do not take turns") {
  LadderPredictor ladder(kShape);
  see(&ladder, kVisits, true, false);  // both are right
  CHECK(ladder.rungs(1)[0].score == Approx(ladder.rungs(1)[1].score).margin(0.05));
  CHECK(ladder.rungs(1)[1].layers_trusted == 0);
}

TEST_CASE("tokens that are read together say nothing of how good a guess is") {
  LadderPredictor ladder(kShape);
  for (int i = 0; i < kVisits; ++i) {
    Observed prompt(i % 4, {0, 1}, {6, 7, 6, 7});
    prompt.decision.n_tokens = 2;
    prompt.decision.n_ahead = 1;
    ladder.observe(prompt.decision);
  }
  CHECK(believed(ladder, 1) == "lookahead");
}

TEST_CASE("a guess scores 1 for the truth, 0 for nothing, and below for what is sure and wrong") {
  const std::vector<ExpertLoad> used{{ExpertId{0}, 0, 1}, {ExpertId{1}, 1, 1}};
  CHECK(shadow_score(std::vector<float>{1, 1, 0, 0}, used) == Approx(1));
  CHECK(shadow_score(std::vector<float>{0, 0, 0, 0}, used) == 0);
  CHECK(shadow_score(std::vector<float>{0, 0, 1, 1}, used) == Approx(-1));
  CHECK(shadow_score(std::vector<float>{0.5F, 0, 0.5F, 0}, used) == Approx(0.25));  // recall 1/2
}

}  // namespace tandem::test
