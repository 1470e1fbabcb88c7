#include "scheduler/absent_guesses.h"

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr ExpertKey kThird{LayerId{0}, ExpertId{2}};

// After so many layers, each with a guess that expert 2 is used by `load` tokens, which it is in
// every so many of them.
double share_after(int n_layers, float load, int used_every) {
  AbsentGuesses guesses(1, 4, 2);
  const Loads used(0, {0, 0, 7, 0});
  const Loads unused(0, {1, 0, 0, 0});
  for (int i = 0; i < n_layers; ++i) {
    guesses.add(kThird, 2, load);
    guesses.observe(i % used_every == 0 ? used.decision : unused.decision);
  }
  CHECK(guesses.share(1) == 1);  // nothing was guessed so far ahead
  return guesses.share(2);
}

}  // namespace

TEST_CASE("absent guesses are believed as they are before any came or failed to come true") {
  CHECK(share_after(0, 1, 1) == 1);
}

TEST_CASE("absent guesses of a half that come true in one of five layers are worth two fifths") {
  CHECK(share_after(4000, 0.5F, 5) == Approx(0.4).epsilon(0.02));
}

TEST_CASE("absent guesses that come true more often than they say are believed as they are") {
  CHECK(share_after(1000, 0.5F, 1) == 1);
}

TEST_CASE("a guess that many tokens use an absent expert promises one use of it") {
  CHECK(share_after(1000, 20, 1) == 1);
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

TEST_CASE("an absent guess of a step that was stopped is held against nobody") {
  AbsentGuesses guesses(1, 4, 1);
  const Loads unused(0, {1, 0, 0, 0});
  guesses.add(kThird, 1, 1);
  guesses.begin(LayerId{0}, 1);
  guesses.observe(unused.decision);
  CHECK(guesses.share(1) == 1);
}

}  // namespace tandem::test
