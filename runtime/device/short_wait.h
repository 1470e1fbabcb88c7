// Waiting for a number to change where it mostly changes soon.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tandem {

inline void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline constexpr int kLooks = 1000;  // some 20 us

// Looks at `value` so many times while it is (or, with `equal` false, is not) `expected`, and
// returns it. By default long enough for what comes between two regions of a layer, short enough to
// leave the core to others while nothing is computed.
inline uint32_t look_while(const std::atomic<uint32_t>& value, uint32_t expected, bool equal,
                           int looks = kLooks) {
  uint32_t now = value.load(std::memory_order_acquire);
  for (int i = 0; i < looks && (now == expected) == equal; ++i) {
    relax_cpu();
    now = value.load(std::memory_order_acquire);
  }
  return now;
}

// Stores, and wakes who waits for that. With a weaker order a waiter may sleep for ever: libstdc++
// wakes nobody where it sees nobody waiting, and looks for that before the store is seen by others,
// if stores before it take their time.
template <typename Atomic, typename T>
void store_and_wake(Atomic& value, T now) {
  value.store(now, std::memory_order_seq_cst);
  value.notify_all();
}

}  // namespace tandem
