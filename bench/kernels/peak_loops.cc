// In assembler, so that one program holds the loops of every CPU. Twelve sums that do not depend on
// each other: more than the latency of an instruction times those that start in a cycle.
#include "bench/kernels/peak_loops.h"

#include "kernels/simd.h"

namespace tandem::bench {

#if defined(__x86_64__)
namespace {

// clang-format off
#define TANDEM_TWELVE(step) \
  step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11) step(12) step(13)
// clang-format on
#define TANDEM_CLEAR(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n\t"

#define TANDEM_PEAK_LOOP(name, step)                                                             \
  void name(int64_t turns) {                                                                     \
    asm volatile(TANDEM_CLEAR(0) TANDEM_CLEAR(1) TANDEM_TWELVE(                                  \
                     TANDEM_CLEAR) "1:\n\t" TANDEM_TWELVE(step) "dec %0\n\tjnz 1b\n\tvzeroupper" \
                 : "+r"(turns)                                                                   \
                 :                                                                               \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14");                         \
  }

#define TANDEM_F32_ZMM(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define TANDEM_F32_YMM(i) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #i "\n\t"
#define TANDEM_BF16_ZMM(i) "vdpbf16ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define TANDEM_INT8_ZMM(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n\t"
// Without VNNI: pairs to int16, these in pairs to int32, and only then the sum.
#define TANDEM_INT8_YMM(i)                 \
  "vpmaddubsw %%ymm0, %%ymm1, %%ymm14\n\t" \
  "vpmaddwd %%ymm0, %%ymm14, %%ymm14\n\t"  \
  "vpaddd %%ymm14, %%ymm" #i ", %%ymm" #i "\n\t"

TANDEM_PEAK_LOOP(f32_zmm, TANDEM_F32_ZMM)
TANDEM_PEAK_LOOP(f32_ymm, TANDEM_F32_YMM)
TANDEM_PEAK_LOOP(bf16_zmm, TANDEM_BF16_ZMM)
TANDEM_PEAK_LOOP(int8_zmm, TANDEM_INT8_ZMM)
TANDEM_PEAK_LOOP(int8_ymm, TANDEM_INT8_YMM)

// Four sums of 16 tokens by 16 rows; in tiles of zeros, as the registers above.
#define TANDEM_PEAK_TILES(name, instruction)                                                    \
  void name(int64_t turns) {                                                                    \
    const TileConfig config;                                                                    \
    asm volatile("ldtilecfg %1\n\t1:\n\t" instruction " %%tmm6, %%tmm4, %%tmm0\n\t" instruction \
                 " %%tmm6, %%tmm5, %%tmm1\n\t" instruction                                      \
                 " %%tmm7, %%tmm4, %%tmm2\n\t" instruction                                      \
                 " %%tmm7, %%tmm5, %%tmm3\n\tdec %0\n\tjnz 1b\n\ttilerelease"                   \
                 : "+r"(turns)                                                                  \
                 : "m"(config)                                                                  \
                 : "cc");                                                                       \
  }

struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

TANDEM_PEAK_TILES(int8_tiles, "tdpbssd")
TANDEM_PEAK_TILES(bf16_tiles, "tdpbf16ps")

}  // namespace

PeakLoop peak_loop(Peak peak) {
  constexpr int kTileProducts = 4 * 16 * 16 * 64;  // of int8 in a turn
  if (find_simd("avx512-amx") != nullptr) {
    if (peak == Peak::kInt8) return {"tdpbssd, tiles", int8_tiles, 2 * kTileProducts};
    if (peak == Peak::kBf16) return {"tdpbf16ps, tiles", bf16_tiles, kTileProducts};
  }
  const bool avx512 = find_simd("avx512") != nullptr;
  const bool bf16 = find_simd("avx512-bf16") != nullptr;
  if (find_simd("avx2") == nullptr) return {"unknown", nullptr, 0};
  if (peak == Peak::kInt8) {
    return avx512 ? PeakLoop{"vpdpbusd, 512 bits", int8_zmm, 12 * 128}
                  : PeakLoop{"vpmaddubsw, 256 bits", int8_ymm, 12 * 64};
  }
  if (peak == Peak::kBf16 && bf16) return {"vdpbf16ps, 512 bits", bf16_zmm, 12 * 64};
  return avx512 ? PeakLoop{"vfmadd231ps, 512 bits", f32_zmm, 12 * 32}
                : PeakLoop{"vfmadd231ps, 256 bits", f32_ymm, 12 * 16};
}

#else

PeakLoop peak_loop(Peak) { return {"unknown", nullptr, 0}; }

#endif

}  // namespace tandem::bench
