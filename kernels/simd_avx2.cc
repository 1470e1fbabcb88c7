// AVX2 + FMA + F16C. The only file compiled for them: it includes nothing that could emit a
// shared inline function, and everything but the table has internal linkage.
#include "kernels/simd.h"
#include "kernels/simd_avx2_blocks.h"

namespace tandem {
namespace {

constexpr int64_t kRowGroup = 4;  // rows of an inner loop: four sums fill one vector

__m256i tail_mask(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
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

// Starts fetching the block that stands kRowGroup rows below: with one token the loop waits for
// memory, and rows are too short for the hardware's prefetchers. The address may lie behind the
// matrix, where a prefetch does nothing.
template <class Format>
[[gnu::always_inline]] inline void prefetch_below(const uint8_t* block, int64_t row_bytes) {
  const uintptr_t below =
      reinterpret_cast<uintptr_t>(block) + static_cast<uintptr_t>(kRowGroup * row_bytes);
  for (uintptr_t line = 0; line < Format::kBytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(below + line), _MM_HINT_T0);
  }
}

// acc[r] += a block of each row . x, the rows taking turns by parts.
template <class Format>
[[gnu::always_inline]] inline void dot_block(const Format* block, int n_rows, const float* x,
                                             __m256* acc) {
#pragma GCC unroll 4
  for (int p = 0; p < Format::kElems / Format::kPart; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; ++r) {
      block[r].part(
          p, [&](int i, __m256 w) __attribute__((always_inline)) {
            acc[r] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + i), acc[r]);
          });
    }
  }
}

template <class Format, int kRows>
void dot_blocks_rows(const uint8_t* rows, int64_t row_bytes, const float* x, int64_t n,
                     float* out) {
  __m256 acc[kRows];
  for (__m256& sum : acc) sum = _mm256_setzero_ps();
  int64_t c = 0;
  for (; c + Format::kElems <= n; c += Format::kElems, rows += Format::kBytes) {
    if constexpr (kRows == 4) {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) prefetch_below<Format>(rows + r * row_bytes, row_bytes);
      const Format block[4] = {Format(rows), Format(rows + row_bytes), Format(rows + 2 * row_bytes),
                               Format(rows + 3 * row_bytes)};
      dot_block(block, 4, x + c, acc);
    } else {
      const Format block(rows);
      dot_block(&block, 1, x + c, acc);
    }
  }
  if constexpr (Format::kElems == 8) {
    if (c < n) {
      const __m256 column = _mm256_maskload_ps(x + c, tail_mask(n - c));
      for (int r = 0; r < kRows; ++r) {
        const __m256 weights = decode_tail<Format>(rows + r * row_bytes, n - c);
        acc[r] = _mm256_fmadd_ps(weights, column, acc[r]);
      }
    }
  }
  add_sums<kRows>(acc, out);
}

template <class Format>
void dot_blocks_as(const uint8_t* rows, int64_t row_bytes, int64_t n_rows, const float* x,
                   int64_t n, float* out) {
  int64_t r = 0;
  for (; r + 4 <= n_rows; r += 4) {
    dot_blocks_rows<Format, 4>(rows + r * row_bytes, row_bytes, x, n, out + r);
  }
  for (; r < n_rows; ++r) {
    dot_blocks_rows<Format, 1>(rows + r * row_bytes, row_bytes, x, n, out + r);
  }
}

void dot_blocks_avx2(DType type, const std::byte* rows, int64_t row_bytes, int64_t n_rows,
                     const float* x, int64_t n, float* out) {
  const uint8_t* bytes = as_bytes(rows);
  switch (type) {
    case DType::kF32:
      return dot_blocks_as<BlockF32>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kF16:
      return dot_blocks_as<BlockF16>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kBF16:
      return dot_blocks_as<BlockBF16>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ4_0:
      return dot_blocks_as<BlockQ40>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ5_0:
      return dot_blocks_as<BlockQ50>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ8_0:
      return dot_blocks_as<BlockQ80>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ4_K:
      return dot_blocks_as<BlockQ4K>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ5_K:
      return dot_blocks_as<BlockQ5K>(bytes, row_bytes, n_rows, x, n, out);
    case DType::kQ6_K:
      return dot_blocks_as<BlockQ6K>(bytes, row_bytes, n_rows, x, n, out);
  }
}

void weighted_sum_avx2(const float* p, int64_t n_keys, const float* v, int64_t v_stride,
                       float decay, int64_t n, float* acc) {
  const __m256 shrink = _mm256_set1_ps(decay);
  int64_t c = 0;
  for (; c + 32 <= n; c += 32) {
    __m256 sum[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[i] = _mm256_mul_ps(_mm256_loadu_ps(acc + c + 8 * i), shrink);
    for (int64_t j = 0; j < n_keys; ++j) {
      const __m256 weight = _mm256_broadcast_ss(p + j);
      const float* row = v + j * v_stride + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        sum[i] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(row + 8 * i), sum[i]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm256_storeu_ps(acc + c + 8 * i, sum[i]);
  }
  for (; c < n; c += 8) {
    const __m256i mask = tail_mask(n - c);
    __m256 sum = _mm256_mul_ps(_mm256_maskload_ps(acc + c, mask), shrink);
    for (int64_t j = 0; j < n_keys; ++j) {
      const __m256 row = _mm256_maskload_ps(v + j * v_stride + c, mask);
      sum = _mm256_fmadd_ps(_mm256_broadcast_ss(p + j), row, sum);
    }
    _mm256_maskstore_ps(acc + c, mask, sum);
  }
}

}  // namespace

const SimdOps kAvx2Ops = {"avx2",   dequantize_avx2, store_f16_avx2,
                          dot_avx2, dot_blocks_avx2, weighted_sum_avx2};

}  // namespace tandem
