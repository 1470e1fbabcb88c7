// The smallest of numbers, or of sums of two each.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>

namespace tandem {

// The smallest a[i] + b[i], and the first i where it is; infinity and 0 where all are infinite.
// b.size() == a.size(). In lanes beside each other, because minima one after the other wait for
// each other.
inline std::pair<float, size_t> least_sum(std::span<const float> a, std::span<const float> b) {
  constexpr size_t kLanes = 16;
  constexpr float kMost = std::numeric_limits<float>::infinity();
  std::array<float, kLanes> lanes;
  lanes.fill(kMost);
  size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const float sum = a[i + j] + b[i + j];
      lanes[j] = sum < lanes[j] ? sum : lanes[j];
    }
  }
  float least = *std::min_element(lanes.begin(), lanes.end());
  for (; i < a.size(); ++i) least = std::min(least, a[i] + b[i]);
  if (least == kMost) return {kMost, 0};
  size_t at = 0;
  while (a[at] + b[at] != least) ++at;
  return {least, at};
}

// The smallest of the numbers, and the first place where it is; none may be NaN, and there is one.
inline std::pair<double, size_t> least_of(std::span<const double> values) {
  std::array<double, 4> lanes;
  lanes.fill(values[0]);
  size_t i = 0;
  for (; i + lanes.size() <= values.size(); i += lanes.size()) {
    for (size_t j = 0; j < lanes.size(); ++j) lanes[j] = std::min(lanes[j], values[i + j]);
  }
  double least = *std::min_element(lanes.begin(), lanes.end());
  for (; i < values.size(); ++i) least = std::min(least, values[i]);
  size_t at = 0;
  while (values[at] != least) ++at;
  return {least, at};
}

}  // namespace tandem
