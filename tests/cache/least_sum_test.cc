#include "cache/least_sum.h"

#include <limits>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

TEST_CASE("the smallest sum is found in rows of every length, and where it is first") {
  std::mt19937 random(3);
  for (size_t n = 0; n < 70; ++n) {
    for (int round = 0; round < 50; ++round) {
      std::vector<double> a(n);
      std::vector<double> b(n);
      // Few values, so that equal ones are common; one in two may not leave.
      for (double& value : a) value = static_cast<double>(random() % 6);
      for (double& value : b) value = random() % 2 == 0 ? kNever : 0;
      double least = kNever;
      size_t at = 0;
      for (size_t i = n; i-- > 0;) {
        if (a[i] + b[i] < kNever && a[i] + b[i] <= least) {
          least = a[i] + b[i];
          at = i;
        }
      }
      INFO(n << " numbers, round " << round);
      REQUIRE(least_sum(a, b) == std::pair(least, at));
    }
  }
}

}  // namespace
}  // namespace tandem::test
