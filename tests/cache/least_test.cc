#include "cache/least.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr float kNever = std::numeric_limits<float>::infinity();

TEST_CASE("the smallest sum is found in rows of every length, and where it is first") {
  std::mt19937 random(3);
  for (size_t n = 0; n < 70; ++n) {
    for (int round = 0; round < 50; ++round) {
      std::vector<float> a(n);
      std::vector<float> b(n);
      // Few values, so that equal ones are common; one in two may not leave.
      for (float& value : a) value = static_cast<float>(random() % 6);
      for (float& value : b) value = random() % 2 == 0 ? kNever : 0;
      float least = kNever;
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

TEST_CASE("the smallest number is found in rows of every length, and where it is first") {
  std::mt19937 random(4);
  for (size_t n = 1; n < 70; ++n) {
    for (int round = 0; round < 50; ++round) {
      std::vector<double> values(n);
      for (double& value : values) {
        value = random() % 3 == 0 ? double{kNever} : static_cast<double>(random() % 6);
      }
      const auto least = std::min_element(values.begin(), values.end());
      const auto at = static_cast<size_t>(least - values.begin());
      INFO(n << " numbers, round " << round);
      REQUIRE(least_of(values) == std::pair(*least, at));
    }
  }
}

}  // namespace
}  // namespace tandem::test
