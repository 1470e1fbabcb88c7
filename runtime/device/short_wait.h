// Waiting for a number to change where it mostly changes soon.
#pragma once

#include <atomic>
#include <cstdint>

namespace tandem {

inline void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Looks at `value` for some 20 us while it is (or, with `equal` false, is not) `expected`, and
// returns it. Long enough for what comes between two regions of a layer, short enough to leave the
// core to others while nothing is computed.
inline uint32_t look_while(const std::atomic<uint32_t>& value, uint32_t expected, bool equal) {
  constexpr int kLooks = 1000;
  uint32_t now = value.load(std::memory_order_acquire);
  for (int i = 0; i < kLooks && (now == expected) == equal; ++i) {
    relax_cpu();
    now = value.load(std::memory_order_acquire);
  }
  return now;
}

}  // namespace tandem
