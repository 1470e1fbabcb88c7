// Lanes (simd_lanes.h) of 512 bits. Internal linkage, as there.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's avx512fintrin.h starts "undefined" vectors with themselves (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels/simd_lanes.h"

namespace tandem {
namespace {

struct Avx512Lanes {
  static constexpr int kLanes = 16;
  static constexpr int kTokens = 12;
  static constexpr int kFloatGroups = 2;
  static constexpr int kFloatTokens = 8;
  static constexpr bool kWholeSums = false;
  static constexpr int64_t kAhead = 3072;
  static constexpr bool kAheadToL2 = false;
  using Int = __m512i;
  using Float = __m512;

  static Int zero() { return _mm512_setzero_si512(); }
  static Float zero_float() { return _mm512_setzero_ps(); }
  static Float set_float(float v) { return _mm512_set1_ps(v); }
  static Int line(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Int bcast(const uint8_t* p) {
    int v = 0;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
  }
  static Float bcast_float(const uint8_t* p) {
    float v = 0;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm512_set1_ps(v);
  }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }

  static Int and_bits(Int v, uint32_t mask) {
    return _mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(mask)));
  }
  static Int or_bits(Int a, Int b) { return _mm512_or_si512(a, b); }
  static Int pick(Int a, uint32_t m, Int b, uint32_t n) {
    constexpr int kAndThenOr = 0xEA;  // (a & b) | c
    return _mm512_ternarylogic_epi32(a, _mm512_set1_epi32(static_cast<int>(m)), and_bits(b, n),
                                     kAndThenOr);
  }
  static Int shl(Int v, int n) { return _mm512_slli_epi32(v, static_cast<unsigned>(n)); }
  static Int shr(Int v, int n) { return _mm512_srli_epi32(v, static_cast<unsigned>(n)); }
  static Int sar(Int v, int n) { return _mm512_srai_epi32(v, static_cast<unsigned>(n)); }
  static Int fifth_bits(Int v, int k) {
    const __m512i byte_of_dword = _mm512_broadcast_i32x4(
        _mm_add_epi8(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12),
                     _mm_set1_epi8(static_cast<char>(k / 2))));
    const __m512i bits = _mm512_set1_epi32(k % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010U));
    return _mm512_maskz_set1_epi8(
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(v, byte_of_dword), bits), 16);
  }
  static Int even_bytes_s16(Int v) { return _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8); }
  static Int odd_bytes_s16(Int v) { return _mm512_srai_epi16(v, 8); }

  static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static Int mul_int(Int a, Int b) { return _mm512_mullo_epi32(a, b); }

  static Int dot_u8(Int acc, Int w, Int x) { return _mm512_dpbusd_epi32(acc, w, x); }
  // vpdpbusd wants w unsigned: 128 is added to each, and taken off the sum at its start.
  static Int start_s8(Int minus) { return _mm512_slli_epi32(minus, 7); }
  static Int weights_s8(Int line) {
    return _mm512_xor_si512(line, _mm512_set1_epi32(static_cast<int>(0x80808080U)));
  }
  static Int dot_s8(Int acc, Int w, Int x) { return _mm512_dpbusd_epi32(acc, w, x); }
  static Int dot_i16(Int acc, Int a, Int b) { return _mm512_dpwssd_epi32(acc, a, b); }
  static Float dot_bf16(Float acc, Int w, Int x) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
#else
    acc = fma(as_float(_mm512_slli_epi32(w, 16)), as_float(_mm512_slli_epi32(x, 16)), acc);
    return fma(as_float(and_bits(w, 0xFFFF0000U)), as_float(and_bits(x, 0xFFFF0000U)), acc);
#endif
  }

  static Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
  static Float as_float(Int v) { return _mm512_castsi512_ps(v); }
  static Float half_of(Int v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
  static Float halves(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace tandem
