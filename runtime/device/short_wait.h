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

// One thread's waits for its next work. It looks for it for some 20 us before it sleeps, and for
// ten times as long after a sleep that was no longer than that: then work comes once a layer, with
// a GPU's part of the layer between, and waking the thread each time would cost more than looking.
class WorkWait {
 public:
  // Returns once `value` is not `old`.
  void wait(const std::atomic<uint32_t>& value, uint32_t old) {
    if (look_while(value, old, true, looks_) != old) return;
    const auto start = std::chrono::steady_clock::now();
    while (value.load(std::memory_order_acquire) == old) {
      value.wait(old, std::memory_order_acquire);
    }
    looks_ = std::chrono::steady_clock::now() - start < kSoon ? kSoonFactor * kLooks : kLooks;
  }

 private:
  static constexpr int kSoonFactor = 10;
  static constexpr auto kSoon = std::chrono::microseconds(20 * kSoonFactor);
  int looks_ = kLooks;
};

}  // namespace tandem
