#include "kernels/simd.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef TANDEM_KERNELS_AVX2
#include <cpuid.h>
#endif

namespace tandem {
namespace {

#ifdef TANDEM_KERNELS_AVX2
bool cpu_runs_avx2() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  // Leaf 1, ecx bit 29 is F16C, which __builtin_cpu_supports of clang 14 does not know.
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && ((ecx >> 29) & 1U) != 0;
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

const SimdOps* choose() {
  const char* forced = std::getenv("TANDEM_ISA");
  if (forced != nullptr && *forced != '\0') {
    const SimdOps* ops = find_simd(forced);
    if (ops == nullptr) {
      std::fprintf(stderr, "TANDEM_ISA: expected scalar or avx2 (on a CPU that has it), got %s\n",
                   forced);
      std::abort();
    }
    return ops;
  }
  const SimdOps* avx2 = find_simd("avx2");
  return avx2 != nullptr ? avx2 : &kScalarOps;
}

std::atomic<const SimdOps*>& override_slot() {
  static std::atomic<const SimdOps*> slot{nullptr};
  return slot;
}

}  // namespace

const SimdOps* find_simd(const char* name) {
  if (std::strcmp(name, kScalarOps.name) == 0) return &kScalarOps;
#ifdef TANDEM_KERNELS_AVX2
  if (std::strcmp(name, kAvx2Ops.name) == 0 && cpu_runs_avx2()) return &kAvx2Ops;
#endif
  return nullptr;
}

const SimdOps& simd() {
  if (const SimdOps* ops = override_slot().load(std::memory_order_acquire)) return *ops;
  static const SimdOps* const kChosen = choose();
  return *kChosen;
}

void override_simd(const SimdOps* ops) { override_slot().store(ops, std::memory_order_release); }

}  // namespace tandem
