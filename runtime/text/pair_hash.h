// A hash for pairs of symbols that whoever writes the file cannot aim at: std::hash of an integer
// is the integer itself, so a list of merges could put all of its pairs into one bucket and make
// loading quadratic. Salted once a process. Pure after construction; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace tandem {

struct PairHash {
  uint64_t salt = process_salt();

  // The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the key changes half of
  // the result's.
  size_t operator()(uint64_t key) const noexcept {
    uint64_t x = key ^ salt;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
    x = (x ^ x >> 27) * 0x94D049BB133111EBU;
    return static_cast<size_t>(x ^ x >> 31);
  }

  // Drawn at the first call, the same ever after.
  static uint64_t process_salt();
};

// By left << 32 | right.
template <typename Value>
using PairMap = std::unordered_map<uint64_t, Value, PairHash>;

}  // namespace tandem
