// LRU over one pool: the expert whose layer step used it longest ago leaves first.
#pragma once

#include <compare>
#include <cstdint>

#include "cache/policies/ranked.h"

namespace tandem {

struct LastUse {
  uint64_t last = 0;
  void note(uint64_t clock) { last = clock; }
  auto operator<=>(const LastUse&) const = default;
};

using LeastRecentlyUsed = RankedPolicy<LastUse>;

}  // namespace tandem
