#include "scheduler/predictor.h"

#include "tests/scheduler/observed.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("the lookahead's experts are expected in the layer that they were said for") {
  const auto predictor = make_predictor("gate-reuse", {4, 8, 2});
  predictor->observe(Observed(0, {0, 1}, {2, 3, 4, 5}).decision);
  const std::vector<float> next = loads_of(*predictor, 1);
  REQUIRE(next.size() == 8);
  CHECK(next[2] > 0.5F);
  CHECK(next[3] > 0.5F);
  CHECK(next[0] == 0);
  const std::vector<float> after = loads_of(*predictor, 2);
  CHECK(after[4] > 0.5F);
  CHECK(after[2] == 0);
  CHECK(loads_of(*predictor, 3).empty());
}

TEST_CASE("a lookahead that is always wrong is soon not believed, one that is right is") {
  const auto wrong = make_predictor("gate-reuse", {4, 8, 1});
  const auto right = make_predictor("gate-reuse", {4, 8, 1});
  for (int i = 0; i < 400; ++i) {
    wrong->observe(Observed(i % 4, {0, 1}, {6, 7}).decision);
    right->observe(Observed(i % 4, {0, 1}, {0, 1}).decision);
  }
  CHECK(loads_of(*wrong, 1)[6] < 0.05F);
  CHECK(loads_of(*right, 1)[0] > 0.95F);
}

TEST_CASE("a calibrated lookahead is expected as it says, and not when it lies") {
  const auto honest = make_predictor("gate-reuse", {4, 8, 1});
  const auto liar = make_predictor("gate-reuse", {4, 8, 1});
  // Half of the time it is 0 and 1 that are used, else 2 and 3.
  const std::vector<float> fair{0.5F, 0.5F, 0.5F, 0.5F, 0, 0, 0, 0};
  const std::vector<float> wrong{0, 0, 0, 0, 0.9F, 0.9F, 0.9F, 0.9F};
  for (int i = 0; i < 600; ++i) {
    const int first = (i * 7 / 3) % 2 == 0 ? 0 : 2;
    Observed one(i % 4, {first, first + 1}, {0, 1});
    one.decision.predicted_use = fair;
    honest->observe(one.decision);
    Observed other(i % 4, {first, first + 1}, {4, 5});
    other.decision.predicted_use = wrong;
    liar->observe(other.decision);
  }
  for (const size_t e : {0, 1, 2, 3}) CHECK(loads_of(*honest, 1)[e] == Approx(0.5).margin(0.08));
  CHECK(loads_of(*honest, 1)[4] == 0);
  CHECK(loads_of(*liar, 1)[4] < 0.05F);
}

TEST_CASE("a guess for the next token is expected there, and void where that comes with others") {
  const auto predictor = make_predictor("draft-free", {2, 8, 1});
  // A token's last layer says of the next token what never comes, and it comes in batches.
  for (int i = 0; i < 200; ++i) {
    predictor->observe(Observed(1, {0, 1}, {6, 7}).decision);
    CHECK(loads_of(*predictor, 1)[6] > 0.5F);
    Observed batch(0, {0, 1}, {});
    batch.decision.n_tokens = 5;
    predictor->observe(batch.decision);
    CHECK(loads_of(*predictor, 1).empty());
  }
  // The same when it comes alone.
  for (int i = 0; i < 400; ++i) {
    predictor->observe(Observed(1, {0, 1}, {6, 7}).decision);
    predictor->observe(Observed(0, {0, 1}, {}).decision);
  }
  predictor->observe(Observed(1, {0, 1}, {6, 7}).decision);
  CHECK(loads_of(*predictor, 1)[6] < 0.05F);
}

TEST_CASE("predictors from tables read the lookahead that comes with the routing") {
  for (const char* name : {"pair-table", "token-table", "draft-free"}) {
    CHECK(needs_tables(name));
    const auto predictor = make_predictor(name, {4, 8, 2});
    predictor->observe(Observed(0, {0, 1}, {2, 3, 4, 5}).decision);
    CHECK(loads_of(*predictor, 2)[4] > 0.5F);
  }
  for (const char* name : {"none", "hot-list", "gate-reuse", "ladder"}) {
    CHECK_FALSE(needs_tables(name));
  }
}

TEST_CASE("the previous token's experts are expected again") {
  const auto predictor = make_predictor("previous-token", {2, 8, 2});
  predictor->observe(Observed(0, {0, 1}, {}).decision);
  predictor->observe(Observed(1, {2, 3}, {}).decision);
  CHECK(loads_of(*predictor, 1)[0] > 0);  // the layer after the last is the first
  CHECK(loads_of(*predictor, 1)[2] == 0);
  CHECK(loads_of(*predictor, 2)[2] > 0);
}

TEST_CASE("the hot list expects what has been used most") {
  const auto predictor = make_predictor("hot-list", {1, 8, 1});
  for (int i = 0; i < 50; ++i) {
    predictor->observe(Observed(0, {0, i % 2 == 0 ? 1 : 2 + i % 6}, {}).decision);
  }
  const std::vector<float> loads = loads_of(*predictor, 1);
  CHECK(loads[0] > loads[1]);
  CHECK(loads[1] > loads[3]);
  CHECK(loads[0] <= 1);
}

TEST_CASE("without a predictor's name there is none") {
  CHECK(make_predictor("none", {1, 8, 1}) == nullptr);
  CHECK(make_predictor("oracle", {1, 8, 1}) == nullptr);
}

}  // namespace tandem::test
