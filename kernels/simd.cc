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
struct Cpu {
  bool avx2 = false;
  bool avx512 = false;
  bool avx512_bf16 = false;
};

Cpu look_at_cpu() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  Cpu cpu;
  // Leaf 1, ecx bit 29 is F16C, which __builtin_cpu_supports of clang 14 does not know.
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && ((ecx >> 29) & 1U) != 0;
  cpu.avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  cpu.avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  // Leaf 7.1, eax bit 5.
  cpu.avx512_bf16 =
      cpu.avx512 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && ((eax >> 5) & 1U) != 0;
  return cpu;
}

SimdOps on_top_of_avx2(SimdOps ops) {
  ops.dequantize = kAvx2Ops.dequantize;
  ops.store_f16 = kAvx2Ops.store_f16;
  ops.dot = kAvx2Ops.dot;
  ops.softmax = kAvx2Ops.softmax;
  ops.decay_add = kAvx2Ops.decay_add;
  return ops;
}

const SimdOps* find_x86(const char* name) {
  static const Cpu kCpu = look_at_cpu();
  static const SimdOps kAvx512 = on_top_of_avx2(kAvx512Ops);
  static const SimdOps kAvx512Bf16 = on_top_of_avx2(kAvx512Bf16Ops);
  if (std::strcmp(name, kAvx2Ops.name) == 0 && kCpu.avx2) return &kAvx2Ops;
  if (std::strcmp(name, kAvx512.name) == 0 && kCpu.avx512) return &kAvx512;
  if (std::strcmp(name, kAvx512Bf16.name) == 0 && kCpu.avx512_bf16) return &kAvx512Bf16;
  return nullptr;
}
#endif

const SimdOps* choose() {
  const char* forced = std::getenv("TANDEM_ISA");
  if (forced != nullptr && *forced != '\0') {
    const SimdOps* ops = find_simd(forced);
    if (ops == nullptr) {
      std::fprintf(stderr,
                   "TANDEM_ISA: expected scalar, avx2, avx512 or avx512-bf16 (on a CPU that has "
                   "it), got %s\n",
                   forced);
      std::abort();
    }
    return ops;
  }
  for (const char* name : {"avx512-bf16", "avx512", "avx2"}) {
    if (const SimdOps* ops = find_simd(name)) return ops;
  }
  return &kScalarOps;
}

std::atomic<const SimdOps*>& override_slot() {
  static std::atomic<const SimdOps*> slot{nullptr};
  return slot;
}

}  // namespace

const SimdOps* find_simd(const char* name) {
  if (std::strcmp(name, kScalarOps.name) == 0) return &kScalarOps;
#ifdef TANDEM_KERNELS_AVX2
  return find_x86(name);
#else
  return nullptr;
#endif
}

const SimdOps& simd() {
  if (const SimdOps* ops = override_slot().load(std::memory_order_acquire)) return *ops;
  static const SimdOps* const kChosen = choose();
  return *kChosen;
}

void override_simd(const SimdOps* ops) { override_slot().store(ops, std::memory_order_release); }

}  // namespace tandem
