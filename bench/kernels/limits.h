// What this machine does at most, to hold kernels against. Measured anew whenever it is asked for,
// because other programs and the memory of virtual machines change it within seconds.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "runtime/device/thread_pool.h"

namespace tandem::bench {

enum class Peak { kF32, kBf16, kInt8 };
inline constexpr size_t kPeaks = 3;

struct Limits {
  double read_gbps = 0;               // every line once, fetched ahead in order
  std::array<double, kPeaks> gops{};  // by Peak, from registers; a multiply-add is two; 0: unknown
};

// About 30 ms. memory: written before, much more than the caches hold.
Limits measure_limits(std::span<const std::byte> memory, ThreadPool& pool);

// The instruction behind a peak on this CPU: the best that some kernel here uses.
const char* peak_name(Peak peak);

}  // namespace tandem::bench
