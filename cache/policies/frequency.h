// LFU over one pool: the expert with the fewest uses since the start leaves first; among equals
// the one used longest ago.
#pragma once

#include <compare>
#include <cstdint>

#include "cache/policies/ranked.h"

namespace tandem {

struct UseCount {
  uint64_t count = 0;
  uint64_t last = 0;
  void note(uint64_t clock) {
    ++count;
    last = clock;
  }
  auto operator<=>(const UseCount&) const = default;
};

using LeastFrequentlyUsed = RankedPolicy<UseCount>;

}  // namespace tandem
