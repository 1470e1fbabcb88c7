// Loops that do nothing but one arithmetic instruction.
#pragma once

#include <cstdint>

#include "bench/kernels/limits.h"

namespace tandem::bench {

struct PeakLoop {
  const char* name;
  void (*run)(int64_t turns);  // nullptr: this CPU has none that is known here
  int64_t ops_per_turn;
};

// The best that this CPU has.
PeakLoop peak_loop(Peak peak);

}  // namespace tandem::bench
