// AVX2 + FMA + F16C. Compiled for them: it includes nothing that could emit a shared inline
// function, and everything but the table has internal linkage.
#include "kernels/simd_avx2_blocks.h"
#include "kernels/simd_avx2_lanes.h"
#include "kernels/simd_pack_x.h"
#include "kernels/simd_packed.h"

namespace tandem {
namespace {

constexpr int64_t kRowGroup = 4;  // rows of an inner loop: four sums fill one vector

__m256i tail_mask(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

// The first n of eight floats, all of them where n is more; the others read as 0 and are not
// stored. Masked stores are slow on AMD.
__m256 load_some(const float* from, int64_t n) {
  return n >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, tail_mask(n));
}
void store_some(float* to, int64_t n, __m256 v) {
  if (n >= 8) {
    _mm256_storeu_ps(to, v);
  } else {
    _mm256_maskstore_ps(to, tail_mask(n), v);
  }
}

const uint8_t* as_bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

// The last n % 8 weights of an unblocked format, padded with zeros to a whole group.
template <class Format>
__m256 decode_tail(const uint8_t* src, int64_t n) {
  uint8_t padded[Format::kBytes] = {};
  __builtin_memcpy(padded, src, static_cast<size_t>(n) * (Format::kBytes / Format::kElems));
  __m256 weights = _mm256_setzero_ps();
  Format(padded).part(0, [&](int, __m256 w) { weights = w; });
  return weights;
}

template <class Format>
void dequantize_as(const uint8_t* src, float* dst, int64_t n) {
  int64_t done = 0;
  for (; done + Format::kElems <= n; done += Format::kElems, src += Format::kBytes) {
    const Format block(src);
#pragma GCC unroll 4
    for (int p = 0; p < Format::kElems / Format::kPart; ++p) {
      block.part(
          p, [&](int i, __m256 w)
                 __attribute__((always_inline)) { _mm256_storeu_ps(dst + done + i, w); });
    }
  }
  if constexpr (Format::kElems == 8) {
    if (done < n) {
      _mm256_maskstore_ps(dst + done, tail_mask(n - done), decode_tail<Format>(src, n - done));
    }
  }
}

void dequantize_avx2(DType type, const std::byte* src, float* dst, int64_t n) {
  const uint8_t* bytes = as_bytes(src);
  switch (type) {
    case DType::kF32:
      return dequantize_as<BlockF32>(bytes, dst, n);
    case DType::kF16:
      return dequantize_as<BlockF16>(bytes, dst, n);
    case DType::kBF16:
      return dequantize_as<BlockBF16>(bytes, dst, n);
    case DType::kQ4_0:
      return dequantize_as<BlockQ40>(bytes, dst, n);
    case DType::kQ5_0:
      return dequantize_as<BlockQ50>(bytes, dst, n);
    case DType::kQ8_0:
      return dequantize_as<BlockQ80>(bytes, dst, n);
    case DType::kQ4_K:
      return dequantize_as<BlockQ4K>(bytes, dst, n);
    case DType::kQ5_K:
      return dequantize_as<BlockQ5K>(bytes, dst, n);
    case DType::kQ6_K:
      return dequantize_as<BlockQ6K>(bytes, dst, n);
  }
}

void store_f16_avx2(const float* src, std::byte* dst, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves =
        _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 2 * i), halves);
  }
  for (; i < n; ++i) {
    const uint16_t half = f32_to_f16(src[i]);
    __builtin_memcpy(dst + 2 * i, &half, sizeof half);
  }
}

// The sums of the lanes of a, b, c, d. Each is ((0+1)+(2+3)) + ((4+5)+(6+7)), whatever the others
// hold: that is what keeps results free of the tile's shape.
__m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 quarters = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1));
}

template <int kRows>
void add_sums(const __m256* acc, float* out) {
  const __m256 zero = _mm256_setzero_ps();
  if constexpr (kRows == 4) {
    const __m128 sums = sum_lanes(acc[0], acc[1], acc[2], acc[3]);
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sums));
  } else {
    static_assert(kRows == 1);
    out[0] += _mm_cvtss_f32(sum_lanes(acc[0], zero, zero, zero));
  }
}

// kRows x kTokens accumulators of eight lanes: 4 x 3 fill the registers with room for operands.
template <int kRows, int kTokens>
void dot_micro(const float* w, int64_t w_stride, const float* const* x, int64_t n, float* out,
               int64_t out_stride) {
  __m256 acc[kTokens][kRows];
  for (auto& token : acc) {
    for (__m256& sum : token) sum = _mm256_setzero_ps();
  }
  const auto step = [&](const auto& load) __attribute__((always_inline)) {
    __m256 column[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) column[t] = load(x[t]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256 weights = load(w + r * w_stride);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) acc[t][r] = _mm256_fmadd_ps(weights, column[t], acc[t][r]);
    }
  };
  int64_t c = 0;
  for (; c + 8 <= n; c += 8) {
    step([&](const float* p) __attribute__((always_inline)) { return _mm256_loadu_ps(p + c); });
  }
  if (c < n) {
    const __m256i mask = tail_mask(n - c);
    step([&](const float* p)
             __attribute__((always_inline)) { return _mm256_maskload_ps(p + c, mask); });
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) add_sums<kRows>(acc[t], out + t * out_stride);
}

template <int kTokens>
void dot_rows(const float* w, int64_t w_stride, int64_t n_rows, const float* const* x, int64_t n,
              float* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + 4 <= n_rows; r += 4) {
    dot_micro<4, kTokens>(w + r * w_stride, w_stride, x, n, out + r, out_stride);
  }
  for (; r < n_rows; ++r) {
    dot_micro<1, kTokens>(w + r * w_stride, w_stride, x, n, out + r, out_stride);
  }
}

void dot_avx2(const float* w, int64_t w_stride, int64_t n_rows, const float* const* x,
              int64_t n_tokens, int64_t n, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < n_rows;
       r += kRowGroup) {  // four rows stay in L1 while the tokens pass by
    const int64_t rows = n_rows - r < kRowGroup ? n_rows - r : kRowGroup;
    const float* group = w + r * w_stride;
    float* dst = out + r;
    int64_t t = 0;
    for (; t + 3 <= n_tokens && n_tokens - t != 4; t += 3) {
      dot_rows<3>(group, w_stride, rows, x + t, n, dst + t * out_stride, out_stride);
    }
    for (; t + 2 <= n_tokens; t += 2) {
      dot_rows<2>(group, w_stride, rows, x + t, n, dst + t * out_stride, out_stride);
    }
    if (t < n_tokens) {
      dot_rows<1>(group, w_stride, rows, x + t, n, dst + t * out_stride, out_stride);
    }
  }
}

float largest_of(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_shuffle_ps(m, m, 0x4E));
  return _mm_cvtss_f32(_mm_max_ps(m, _mm_shuffle_ps(m, m, 0xB1)));
}

float sum_of(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_shuffle_ps(s, s, 0x4E));
  return _mm_cvtss_f32(_mm_add_ps(s, _mm_shuffle_ps(s, s, 0xB1)));
}

int sum_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

struct PackX {
  // Sixteen int8 and their sum from sixteen floats times inverse.
  static int quantize16(const float* x, float factor, uint8_t* to) {
    const __m256 inverse = _mm256_set1_ps(factor);
    // NaN becomes 127: it has no int8, and its block's scale says so.
    const __m256 most = _mm256_set1_ps(127.0F);
    const __m256i a =
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inverse), most));
    const __m256i b =
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse), most));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return sum_of(_mm256_add_epi32(a, b));
  }

  // The scale of n values, a multiple of 8, and what to multiply them with; NaN where one of them
  // is not finite.
  static XScale scale_of(const float* x, int n) {
    __m256 most = _mm256_setzero_ps();
    __m256 sound = _mm256_setzero_ps();  // 0 times anything finite is 0
    const __m256 sign = _mm256_set1_ps(-0.0F);
    for (int i = 0; i < n; i += 8) {
      const __m256 v = _mm256_loadu_ps(x + i);
      most = _mm256_max_ps(most, _mm256_andnot_ps(sign, v));
      sound = _mm256_fmadd_ps(v, _mm256_setzero_ps(), sound);
    }
    const float largest = largest_of(most);
    const bool finite = _mm256_movemask_ps(_mm256_cmp_ps(sound, sound, _CMP_UNORD_Q)) == 0;
    return x_scale(largest, finite);
  }

  // To nearest even; NaN stays NaN. An odd number is followed by a zero.
  static void round_to_bf16(const float* x, int64_t n, uint8_t* to) {
    for (int64_t i = 0; i < n + (n & 1); ++i) {
      uint32_t bits = 0;
      if (i < n) __builtin_memcpy(&bits, x + i, sizeof bits);
      const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
      const uint32_t rounded = nan ? 0x7FC00000 : bits + 0x7FFF + (bits >> 16 & 1);
      put(to, i, static_cast<uint16_t>(rounded >> 16));
    }
  }
};

// As in simd_avx512.cc.
__m256 exp_of(__m256 v) {
  v = _mm256_min_ps(_mm256_set1_ps(104.0F), _mm256_max_ps(_mm256_set1_ps(-104.0F), v));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(1.44269504F)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375F), v);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4F), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1F));
  p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0F)));
  // 2^n in two factors: n is beyond the exponents of one near the ends of the range.
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i e) __attribute__((always_inline)) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  };
  return _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(whole, half)));
}

void silu_mul_avx2(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    const __m256 g = load_some(gate + i, n - i);
    const __m256 below =
        _mm256_add_ps(_mm256_set1_ps(1.0F), exp_of(_mm256_sub_ps(_mm256_setzero_ps(), g)));
    store_some(gate + i, n - i, _mm256_mul_ps(_mm256_div_ps(g, below), load_some(up + i, n - i)));
  }
}

SoftmaxPart softmax_avx2(float* scores, int64_t n, float scale, float max) {
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256 least = _mm256_set1_ps(max);
  __m256 most = least;
  for (int64_t j = 0; j < n; j += 8) {
    const __m256 v = _mm256_mul_ps(load_some(scores + j, n - j), factor);
    store_some(scores + j, n - j, v);
    const __m256 counted =
        n - j >= 8 ? v : _mm256_blendv_ps(least, v, _mm256_castsi256_ps(tail_mask(n - j)));
    most = _mm256_max_ps(counted, most);
  }
  SoftmaxPart part{largest_of(most), 0.0F, 0.0F};
  const __m256 shift = _mm256_set1_ps(part.max);
  __m256 sum = _mm256_setzero_ps();
  for (int64_t j = 0; j < n; j += 8) {
    const __m256 v = exp_of(_mm256_sub_ps(load_some(scores + j, n - j), shift));
    store_some(scores + j, n - j, v);
    sum = _mm256_add_ps(sum,
                        n - j >= 8 ? v : _mm256_and_ps(v, _mm256_castsi256_ps(tail_mask(n - j))));
  }
  part.sum = sum_of(sum);
  part.decay = _mm256_cvtss_f32(exp_of(_mm256_sub_ps(least, shift)));
  return part;
}

void decay_add_avx2(float decay, const float* part, int64_t n, float* acc) {
  const __m256 factor = _mm256_set1_ps(decay);
  for (int64_t c = 0; c < n; c += 8) {
    store_some(acc + c, n - c,
               _mm256_fmadd_ps(load_some(acc + c, n - c), factor, load_some(part + c, n - c)));
  }
}

}  // namespace

const SimdOps kAvx2Ops = {"avx2",
                          dequantize_avx2,
                          store_f16_avx2,
                          dot_avx2,
                          softmax_avx2,
                          decay_add_avx2,
                          nullptr,
                          pack_x_on<PackX>,
                          dot_packed_on<Avx2Lanes>,
                          tile_on<Avx2Lanes>,
                          dot_int8_on<Avx2Lanes>,
                          silu_mul_avx2};

}  // namespace tandem
