// What ran where and when, as modelled; for people to look at.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cache/types.h"

namespace tandem {

enum class Resource : uint8_t { kCpu, kGpu, kLink };

struct TimelineSpan {
  Resource resource;
  const char* what;  // "experts", "attention", "fetch", "prefetch"
  ExpertKey key;     // expert invalid: the layer as a whole
  ModelTime begin = 0;
  ModelTime end = 0;
  int64_t step = 0;
};

struct Timeline {
  std::vector<TimelineSpan> spans;
  size_t most = 2'000'000;  // spans after these are left out, and counted
  size_t left_out = 0;
  int64_t step = 0;  // the current one; the first is 1
  // Only these steps are kept.
  int64_t first_step = 0;
  int64_t last_step = std::numeric_limits<int64_t>::max();

  void add(Resource resource, const char* what, ExpertKey key, ModelTime begin, ModelTime end) {
    if (end <= begin || step < first_step || step > last_step) return;
    if (spans.size() >= most) {
      ++left_out;
      return;
    }
    spans.push_back({resource, what, key, begin, end, step});
  }
};

}  // namespace tandem
