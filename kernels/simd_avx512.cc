// AVX-512 with VNNI: packed dot products and what surrounds them. The rest is AVX2's.
// Compiled twice: simd_avx512_bf16.cc includes this file with the BF16 extension switched on.
#include "kernels/simd_avx512_lanes.h"
#include "kernels/simd_pack_x.h"
#include "kernels/simd_packed.h"

namespace tandem {
namespace {

// v[i] is column i of what was row i: sixteen dwords of sixteen rows change places.
void transpose16(__m512i* v) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  __m512i b[16];  // b[4 i + j]: dword j of each quarter, of rows 4 i … 4 i + 3
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x44);   // quarters 0 1
    const __m512i high01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xEE);  // quarters 2 3
    const __m512i low23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xEE);
    v[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    v[4 + j] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    v[8 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    v[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
}

// n <= 16 dwords of each row, to n lines. The same of the sixteen rows that follow is asked for:
// each row is a stream, more of them than hardware follows.
void transpose_dwords(const uint8_t* rows, int64_t stride, int n, uint8_t* to) {
  const __mmask16 some = static_cast<__mmask16>((1U << n) - 1);
  __m512i v[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    v[r] = _mm512_maskz_loadu_epi32(some, rows + r * stride);
    __builtin_prefetch(rows + (16 + r) * stride);
  }
  transpose16(v);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < n) _mm512_storeu_si512(to + i * kLineBytes, v[i]);
  }
}

void pack_blocks_avx512(const std::byte* rows, int64_t stride, int dwords, int scale_bytes,
                        int64_t n_blocks, std::byte* to) {
  const auto* from = reinterpret_cast<const uint8_t*>(rows);
  auto* dst = reinterpret_cast<uint8_t*>(to);
  if (scale_bytes < 0 && dwords == 1) {  // float formats: a block is a dword
    for (int64_t i = 0; i < n_blocks; i += 16) {
      const int64_t n = n_blocks - i < 16 ? n_blocks - i : 16;
      transpose_dwords(from + i * 4, stride, static_cast<int>(n), dst + i * kLineBytes);
    }
    return;
  }
  const int block = dwords * 4 + (scale_bytes >= 0 ? 2 : 0);
  for (int64_t b = 0; b < n_blocks; ++b, from += block) {
    uint8_t* lines = dst + (scale_bytes == 0 ? 32 : 0);
    const uint8_t* src = from + (scale_bytes == 0 ? 2 : 0);
    for (int i = 0; i < dwords; i += 16) {
      const int n = dwords - i < 16 ? dwords - i : 16;
      transpose_dwords(src + i * 4, stride, n, lines + i * kLineBytes);
    }
    if (scale_bytes >= 0) {
      uint8_t* scales = dst + (scale_bytes == 0 ? 0 : dwords * kLineBytes);
      for (int r = 0; r < 16; ++r) {
        __builtin_memcpy(scales + r * 2, from + r * stride + scale_bytes, 2);
      }
    }
    dst += block * 16;
  }
}

struct PackX {
  // Sixteen int8 and their sum from sixteen floats times inverse.
  static int quantize16(const float* x, float factor, uint8_t* to) {
    const __m512 inverse = _mm512_set1_ps(factor);
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x), inverse);
    // NaN becomes 127: it has no int8, and its block's scale says so.
    const __m512i q = _mm512_cvtps_epi32(_mm512_min_ps(scaled, _mm512_set1_ps(127.0F)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(q));
    return _mm512_reduce_add_epi32(q);
  }

  // The scale of n values, a multiple of 16, and what to multiply them with; NaN where one of them
  // is not finite.
  static XScale scale_of(const float* x, int n) {
    __m512 most = _mm512_setzero_ps();
    __m512 sound = _mm512_setzero_ps();  // 0 times anything finite is 0
    for (int i = 0; i < n; i += 16) {
      const __m512 v = _mm512_loadu_ps(x + i);
      most = _mm512_max_ps(most, _mm512_abs_ps(v));
      sound = _mm512_fmadd_ps(v, _mm512_setzero_ps(), sound);
    }
    const float largest = _mm512_reduce_max_ps(most);
    const bool finite = _mm512_cmp_ps_mask(sound, sound, _CMP_UNORD_Q) == 0;
    return x_scale(largest, finite);
  }

  // To nearest even; NaN stays NaN. An odd number is followed by a zero.
  static void round_to_bf16(const float* x, int64_t n, uint8_t* to) {
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 some =
          n - i >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << (n - i)) - 1);
      const __m512 v = _mm512_maskz_loadu_ps(some, x + i);
      const __m512i bits = _mm512_castps_si512(v);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
      const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
      const __m512i rounded =
          _mm512_mask_mov_epi32(_mm512_add_epi32(bits, half), nan, _mm512_set1_epi32(0x7FC00000));
      const __m256i words = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
      const int64_t left = n - i + (n & 1);
      const __mmask16 stored =
          left >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << left) - 1);
      _mm256_mask_storeu_epi16(to + i * 2, stored, words);
    }
  }
};

// e^v by 2^n times a polynomial of the rest (Cephes' expf), n and the rest from v / ln 2;
// 0 and inf beyond the range of f32, NaN stays NaN. A test bounds the error of silu with it.
__m512 exp_of(__m512 v) {
  v = _mm512_min_ps(_mm512_set1_ps(104.0F), _mm512_max_ps(_mm512_set1_ps(-104.0F), v));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504F)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), v);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0F)));
  return _mm512_scalef_ps(p, n);
}

void silu_mul_avx512(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some =
        n - i >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << (n - i)) - 1);
    const __m512 g = _mm512_maskz_loadu_ps(some, gate + i);
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 below = _mm512_add_ps(one, exp_of(_mm512_sub_ps(_mm512_setzero_ps(), g)));
    const __m512 y = _mm512_mul_ps(_mm512_div_ps(g, below), _mm512_maskz_loadu_ps(some, up + i));
    _mm512_mask_storeu_ps(gate + i, some, y);
  }
}

}  // namespace

#ifdef __AVX512BF16__
const SimdOps kAvx512Bf16Ops = {
    "avx512-bf16",
#else
const SimdOps kAvx512Ops = {
    "avx512",
#endif
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    pack_blocks_avx512,
    pack_x_on<PackX>,
    dot_packed_on<Avx512Lanes>,
    tile_on<Avx512Lanes>,
    dot_int8_on<Avx512Lanes>,
    silu_mul_avx512,
};

}  // namespace tandem
