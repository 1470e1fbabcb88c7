#include <limits>
#include <vector>

#include "scheduler/routing.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("one value that is not finite is found wherever it stands") {
  using Limits = std::numeric_limits<float>;
  for (size_t n = 0; n <= 50; ++n) {
    std::vector<float> values(n, Limits::max());
    for (size_t i = 0; i < n; i += 3)
      values[i] = i % 2 == 0 ? -Limits::max() : Limits::denorm_min();
    CHECK(all_finite(values));
    for (float& value : values) {
      const float kept = value;
      for (const float bad : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()}) {
        value = bad;
        CHECK_FALSE(all_finite(values));
      }
      value = kept;
    }
  }
}

}  // namespace tandem::test
