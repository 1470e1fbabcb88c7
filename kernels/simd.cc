#include "kernels/simd.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef TANDEM_KERNELS_AVX2
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tandem {
namespace {

#ifdef TANDEM_KERNELS_AVX2
struct Cpu {
  bool avx2 = false;
  bool avx512 = false;
  bool avx512_bf16 = false;
  bool amx = false;
};

// Linux lets a process use AMX's registers once it has asked: they make a thread's state 8 KiB
// larger. Older kernels, and others that do not know how to keep them, say no.
bool may_use_tiles() {
#ifdef __linux__
  constexpr int kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;     // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

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
  // Leaf 7.0, edx bits 22 (BF16), 24 (tiles) and 25 (INT8).
  constexpr unsigned kTiles = 1U << 22 | 1U << 24 | 1U << 25;
  cpu.amx = cpu.avx512_bf16 && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
            (edx & kTiles) == kTiles && may_use_tiles();
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

SimdOps with_products_of(SimdOps ops, const SimdOps& products) {
  ops.name = products.name;
  ops.dot_packed = products.dot_packed;
  ops.dot_tile = products.dot_tile;
  return ops;
}

const SimdOps* find_x86(const char* name) {
  static const Cpu kCpu = look_at_cpu();
  static const SimdOps kAvx512 = on_top_of_avx2(kAvx512Ops);
  static const SimdOps kAvx512Bf16 = on_top_of_avx2(kAvx512Bf16Ops);
  static const SimdOps kAmx = with_products_of(kAvx512Bf16, kAmxOps);
  if (std::strcmp(name, kAvx2Ops.name) == 0 && kCpu.avx2) return &kAvx2Ops;
  if (std::strcmp(name, kAvx512.name) == 0 && kCpu.avx512) return &kAvx512;
  if (std::strcmp(name, kAvx512Bf16.name) == 0 && kCpu.avx512_bf16) return &kAvx512Bf16;
  if (std::strcmp(name, kAmx.name) == 0 && kCpu.amx) return &kAmx;
  return nullptr;
}
#endif

const SimdOps* choose() {
  const char* forced = std::getenv("TANDEM_ISA");
  if (forced != nullptr && *forced != '\0') {
    const SimdOps* ops = find_simd(forced);
    if (ops == nullptr) {
      std::fprintf(stderr,
                   "TANDEM_ISA: expected scalar, avx2, avx512, avx512-bf16 or avx512-amx (on a CPU "
                   "that has it), got %s\n",
                   forced);
      std::abort();
    }
    return ops;
  }
  for (const char* name : {"avx512-amx", "avx512-bf16", "avx512", "avx2"}) {
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
