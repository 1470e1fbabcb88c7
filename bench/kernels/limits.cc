#include "bench/kernels/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "bench/kernels/peak_loops.h"

namespace tandem::bench {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kAhead = 4096;           // bytes; from 1 to 4 KiB it makes no difference
constexpr int64_t kPiece = 4 << 20;        // bytes of a task
constexpr int64_t kPeakTurns = 1'000'000;  // 2 to 4 ms

template <typename Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The sum keeps the reads from being left out.
uint64_t read_lines(const std::byte* at, int64_t bytes) {
  std::array<uint64_t, 8> sums{};
  for (int64_t line = 0; line < bytes; line += kLine) {
    __builtin_prefetch(at + line + kAhead);
    const auto* words = reinterpret_cast<const uint64_t*>(at + line);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] ^= words[i];
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum ^= s;
  return sum;
}

double read_gbps(std::span<const std::byte> memory, ThreadPool& pool) {
  std::atomic<uint64_t> sum{0};
  const auto pieces = static_cast<int64_t>(memory.size()) / kPiece;
  const auto read = [&](int64_t i) {
    sum.fetch_xor(read_lines(memory.data() + i * kPiece, kPiece), std::memory_order_relaxed);
  };
  const double seconds = seconds_of([&] { pool.run(pieces, read); });
  return static_cast<double>(pieces * kPiece) / seconds / 1e9;
}

double peak_gops(const PeakLoop& loop, ThreadPool& pool) {
  if (loop.run == nullptr) return 0;
  const auto turn = [&](int64_t) { loop.run(kPeakTurns); };
  const double seconds = seconds_of([&] { pool.run(pool.size(), turn); });
  return static_cast<double>(pool.size() * kPeakTurns * loop.ops_per_turn) / seconds / 1e9;
}

}  // namespace

Limits measure_limits(std::span<const std::byte> memory, ThreadPool& pool) {
  Limits limits;
  limits.read_gbps = read_gbps(memory, pool);
  for (size_t i = 0; i < kPeaks; ++i) {
    limits.gops[i] = peak_gops(peak_loop(static_cast<Peak>(i)), pool);
  }
  return limits;
}

const char* peak_name(Peak peak) { return peak_loop(peak).name; }

}  // namespace tandem::bench
