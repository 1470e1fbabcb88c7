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
// b.size() == a.size(). Sixteen at a time, in lanes beside each other, because minima one after the
// other wait for each other; then one looks among the sixteen.
inline std::pair<float, size_t> least_sum(std::span<const float> a, std::span<const float> b) {
  constexpr size_t kLanes = 4;
  constexpr size_t kBlock = 4 * kLanes;
  constexpr float kMost = std::numeric_limits<float>::infinity();
  const auto sum = [&](size_t i) { return a[i] + b[i]; };
  const auto less = [](float x, float y) { return std::min(x, y); };
  float least = kMost;
  size_t at = 0;  // of the block where it is, at first
  size_t i = 0;
  for (; i + kBlock <= a.size(); i += kBlock) {
    std::array<float, kLanes> lanes;
    for (size_t j = 0; j < kLanes; ++j) {
      const size_t k = i + j;
      lanes[j] =
          less(less(sum(k), sum(k + kLanes)), less(sum(k + 2 * kLanes), sum(k + 3 * kLanes)));
    }
    const float block = less(less(lanes[0], lanes[1]), less(lanes[2], lanes[3]));
    at = block < least ? i : at;
    least = less(least, block);
  }
  for (; i < a.size(); ++i) {
    at = sum(i) < least ? i : at;
    least = less(least, sum(i));
  }
  if (least == kMost) return {kMost, 0};
  while (sum(at) != least) ++at;
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
