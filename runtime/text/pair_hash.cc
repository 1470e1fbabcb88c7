#include "runtime/text/pair_hash.h"

#include <random>

namespace tandem {

uint64_t PairHash::process_salt() {
  static const uint64_t kSalt = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return kSalt;
}

}  // namespace tandem
