#include "scheduler/absent_guesses.h"

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr ExpertKey kThird{LayerId{0}, ExpertId{2}};

}  // namespace

TEST_CASE("absent guesses are believed as they are before any came or failed to come true") {
  const AbsentGuesses guesses(2, 4, 3);
  for (int32_t ahead = 1; ahead <= 3; ++ahead) CHECK(guesses.share(ahead) == 1);
}

TEST_CASE("absent guesses of a half that come true in one of five layers are worth two fifths") {
  AbsentGuesses guesses(1, 4, 2);
  const Loads used(0, {0, 0, 1, 0});
  const Loads unused(0, {1, 0, 0, 0});
  for (int i = 0; i < 4000; ++i) {
    guesses.add(kThird, 2, 0.5F);
    guesses.observe(i % 5 == 0 ? used.decision : unused.decision);
  }
  CHECK(guesses.share(2) == Approx(0.4).epsilon(0.02));
  CHECK(guesses.share(1) == 1);
}

TEST_CASE("absent guesses that come true more often than they say are believed as they are") {
  AbsentGuesses guesses(1, 4, 1);
  const Loads used(0, {0, 0, 1, 0});
  for (int i = 0; i < 1000; ++i) {
    guesses.add(kThird, 1, 0.5F);
    guesses.observe(used.decision);
  }
  CHECK(guesses.share(1) == 1);
}

TEST_CASE("an absent guess is held against the layer it was made for, once") {
  AbsentGuesses guesses(2, 4, 1);
  const Loads other(1, {1, 0, 0, 0});
  guesses.add(kThird, 1, 1);
  guesses.observe(other.decision);
  CHECK(guesses.share(1) == 1);
  const Loads unused(0, {1, 0, 0, 0});
  guesses.observe(unused.decision);
  const double after = guesses.share(1);
  CHECK(after < 1);
  guesses.observe(unused.decision);
  CHECK(guesses.share(1) == after);
}

TEST_CASE("a guess that many tokens use an absent expert promises one use of it") {
  AbsentGuesses guesses(1, 4, 1);
  const Loads used(0, {0, 0, 7, 0});
  for (int i = 0; i < 1000; ++i) {
    guesses.add(kThird, 1, 20);
    guesses.observe(used.decision);
  }
  CHECK(guesses.share(1) == 1);
}

}  // namespace tandem::test
