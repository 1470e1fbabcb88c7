// What ran where and when, as modelled; for people to look at.
#pragma once

#include <cstdint>
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
  int64_t step = 0;

  void add(Resource resource, const char* what, ExpertKey key, ModelTime begin, ModelTime end) {
    if (end <= begin) return;
    if (spans.size() >= most) {
      ++left_out;
      return;
    }
    spans.push_back({resource, what, key, begin, end, step});
  }
};

}  // namespace tandem
