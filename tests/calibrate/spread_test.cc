#include "runtime/calibrate/spread.h"

#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a spread has the median, and the middle half of the values") {
  const Spread s = spread_of({9, 1, 8, 2, 7, 3, 6, 4, 5});
  CHECK(s.median == 5);
  CHECK(s.low == 3);
  CHECK(s.high == 7);
  CHECK(s.n == 9);
}

TEST_CASE("one value is its own spread") {
  const Spread s = spread_of({4});
  CHECK(s.median == 4);
  CHECK(s.low == 4);
  CHECK(s.high == 4);
  CHECK(s.n == 1);
}

}  // namespace tandem::test
