// The names of things that the cache and the scheduler talk about. Plain values.
#pragma once

#include <compare>
#include <cstdint>

namespace tandem {

// Distinct integer types: a layer is not an expert is not a slot.
template <typename Tag>
struct Id {
  int32_t value = -1;
  constexpr auto operator<=>(const Id&) const = default;
  constexpr bool valid() const { return value >= 0; }
};

using LayerId = Id<struct LayerTag>;
using ExpertId = Id<struct ExpertTag>;
using SlotId = Id<struct SlotTag>;

struct ExpertKey {
  LayerId layer;
  ExpertId expert;
  constexpr auto operator<=>(const ExpertKey&) const = default;
};

// Microseconds on a virtual clock that starts at 0 with the engine.
using ModelTime = double;

}  // namespace tandem
