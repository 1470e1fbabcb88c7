// Lanes (simd_lanes.h) of 256 bits. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include "kernels/simd_lanes.h"

namespace tandem {
namespace {

struct Avx2Lanes {
  static constexpr int kLanes = 8;
  static constexpr int kTokens = 4;
  static constexpr int kFloatGroups = 1;
  static constexpr int kFloatTokens = 4;
  static constexpr bool kWholeSums = false;
  static constexpr int64_t kAhead = 3072;
  static constexpr bool kAheadToL2 = false;
  using Int = __m256i;
  using Float = __m256;

  static Int zero() { return _mm256_setzero_si256(); }
  static Float zero_float() { return _mm256_setzero_ps(); }
  static Float set_float(float v) { return _mm256_set1_ps(v); }
  static Int line(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Int bcast(const uint8_t* p) {
    int v = 0;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
  }
  static Float bcast_float(const uint8_t* p) {
    float v = 0;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm256_set1_ps(v);
  }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }

  static Int and_bits(Int v, uint32_t mask) {
    return _mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(mask)));
  }
  static Int or_bits(Int a, Int b) { return _mm256_or_si256(a, b); }
  static Int pick(Int a, uint32_t m, Int b, uint32_t n) {
    return or_bits(and_bits(a, m), and_bits(b, n));
  }
  static Int shl(Int v, int n) { return _mm256_slli_epi32(v, n); }
  static Int shr(Int v, int n) { return _mm256_srli_epi32(v, n); }
  static Int sar(Int v, int n) { return _mm256_srai_epi32(v, n); }
  static Int fifth_bits(Int v, int k) {
    const __m256i byte_of_dword = _mm256_broadcastsi128_si256(
        _mm_add_epi8(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12),
                     _mm_set1_epi8(static_cast<char>(k / 2))));
    const __m256i bits = _mm256_set1_epi32(k % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010U));
    const __m256i bytes = _mm256_and_si256(_mm256_shuffle_epi8(v, byte_of_dword), bits);
    return and_bits(_mm256_cmpeq_epi8(bytes, bits), 0x10101010);
  }
  static Int even_bytes_s16(Int v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
  static Int odd_bytes_s16(Int v) { return _mm256_srai_epi16(v, 8); }

  // Pairs of products are added in 16 bits: weights of up to 6 bits cannot overflow them.
  static Int dot_u8(Int acc, Int w, Int x) {
    const __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  // |w| times x with w's sign: at most 2 * 128 * 127 in 16 bits.
  static Int start_s8(Int /*minus*/) { return zero(); }
  static Int weights_s8(Int line) { return line; }
  static Int dot_s8(Int acc, Int w, Int x) {
    return dot_u8(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
  static Int dot_i16(Int acc, Int a, Int b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
  }
  static Float dot_bf16(Float acc, Int w, Int x) {
    acc = fma(as_float(_mm256_slli_epi32(w, 16)), as_float(_mm256_slli_epi32(x, 16)), acc);
    return fma(as_float(and_bits(w, 0xFFFF0000U)), as_float(and_bits(x, 0xFFFF0000U)), acc);
  }

  static Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
  static Float as_float(Int v) { return _mm256_castsi256_ps(v); }
  static Float half_of(Int v) {
    const __m256i words = _mm256_packus_epi32(and_bits(v, 0xFFFF), _mm256_setzero_si256());
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(words, 0xD8)));
  }
  static Float halves(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace tandem
