// Block formats as streams of eight float32 weights, for simd_avx2.cc alone: everything here is
// compiled for AVX2 and has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tandem {
namespace {

// A format has kElems weights in kBytes bytes. An object of it stands for one block, its scales
// unpacked; part(p, emit) calls emit(first_weight, eight_weights) for the p-th kPart weights of the
// block in order. Parts are there so that a dot product can take turns between rows: the sums of
// one row are a chain of dependent additions, and four chains at once hide their latency.

inline float half_at(const uint8_t* p) {
  uint16_t half = 0;
  __builtin_memcpy(&half, p, sizeof half);
  return _cvtsh_ss(half);
}

inline __m256i bytes_at(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i signed_bytes_at(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i and_bits(__m256i v, int mask) {
  return _mm256_and_si256(v, _mm256_set1_epi32(mask));
}

// The low (which = 0) or high (which = 1) halves of bytes.
inline __m256i nibbles(__m256i bytes, int which) {
  return which == 0 ? and_bits(bytes, 0xF) : _mm256_srli_epi32(bytes, 4);
}

inline __m256 scaled(__m256 scale, __m256i q) {
  return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q));
}

struct BlockF32 {
  static constexpr int kElems = 8;
  static constexpr int kBytes = 32;
  static constexpr int kPart = 8;
  const uint8_t* b;
  [[gnu::always_inline]] explicit BlockF32(const uint8_t* block) : b(block) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
    emit(0, _mm256_loadu_ps(reinterpret_cast<const float*>(b)));
  }
};

struct BlockF16 {
  static constexpr int kElems = 8;
  static constexpr int kBytes = 16;
  static constexpr int kPart = 8;
  const uint8_t* b;
  [[gnu::always_inline]] explicit BlockF16(const uint8_t* block) : b(block) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
    emit(0, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b))));
  }
};

struct BlockBF16 {
  static constexpr int kElems = 8;
  static constexpr int kBytes = 16;
  static constexpr int kPart = 8;
  const uint8_t* b;
  [[gnu::always_inline]] explicit BlockBF16(const uint8_t* block) : b(block) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    emit(0, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16)));
  }
};

struct BlockQ80 {
  static constexpr int kElems = 32;
  static constexpr int kBytes = 34;
  static constexpr int kPart = 32;
  const uint8_t* b;
  __m256 d;
  [[gnu::always_inline]] explicit BlockQ80(const uint8_t* block)
      : b(block), d(_mm256_set1_ps(half_at(block))) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
#pragma GCC unroll 4
    for (int i = 0; i < 32; i += 8) emit(i, scaled(d, signed_bytes_at(b + 2 + i)));
  }
};

struct BlockQ40 {
  static constexpr int kElems = 32;
  static constexpr int kBytes = 18;
  static constexpr int kPart = 32;
  const uint8_t* b;
  __m256 d;
  [[gnu::always_inline]] explicit BlockQ40(const uint8_t* block)
      : b(block), d(_mm256_set1_ps(half_at(block))) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
    const __m256i eight = _mm256_set1_epi32(8);
#pragma GCC unroll 4
    for (int i = 0; i < 32; i += 8) {
      const __m256i q = nibbles(bytes_at(b + 2 + i % 16), i / 16);
      emit(i, scaled(d, _mm256_sub_epi32(q, eight)));
    }
  }
};

struct BlockQ50 {
  static constexpr int kElems = 32;
  static constexpr int kBytes = 22;
  static constexpr int kPart = 32;
  const uint8_t* b;
  __m256 d;
  [[gnu::always_inline]] explicit BlockQ50(const uint8_t* block)
      : b(block), d(_mm256_set1_ps(half_at(block))) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int, const Emit& emit) const {
    int high = 0;
    __builtin_memcpy(&high, b + 2, sizeof high);
    const __m256i high_bits = _mm256_set1_epi32(high);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#pragma GCC unroll 4
    for (int i = 0; i < 32; i += 8) {
      const __m256i low = nibbles(bytes_at(b + 6 + i % 16), i / 16);
      const __m256i shifts = _mm256_add_epi32(lane, _mm256_set1_epi32(i));
      const __m256i bit = and_bits(_mm256_srlv_epi32(high_bits, shifts), 1);
      const __m256i q = _mm256_or_si256(low, _mm256_slli_epi32(bit, 4));
      emit(i, scaled(d, _mm256_sub_epi32(q, _mm256_set1_epi32(16))));
    }
  }
};

// d * scale and dmin * min of the eight sub-blocks of a Q4_K or Q5_K block. The packing of the
// twelve bytes is described at scale_min() in simd_scalar.cc; here four at a time.
struct ScalesK {
  alignas(32) float scale[8];
  alignas(32) float min[8];

  [[gnu::always_inline]] explicit ScalesK(const uint8_t* b) {
    uint32_t word[3];
    __builtin_memcpy(word, b + 4, sizeof word);
    const uint32_t scale_low = word[0] & 0x3F3F3F3FU;
    const uint32_t scale_high = (word[2] & 0x0F0F0F0FU) | ((word[0] >> 2) & 0x30303030U);
    const uint32_t min_low = word[1] & 0x3F3F3F3FU;
    const uint32_t min_high = ((word[2] >> 4) & 0x0F0F0F0FU) | ((word[1] >> 2) & 0x30303030U);
    store(half_at(b), scale_low, scale_high, scale);
    store(half_at(b + 2), min_low, min_high, min);
  }

 private:
  [[gnu::always_inline]] static void store(float d, uint32_t low, uint32_t high, float* dst) {
    const uint64_t packed = low | static_cast<uint64_t>(high) << 32;
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(packed));
    _mm256_store_ps(dst, scaled(_mm256_set1_ps(d), _mm256_cvtepu8_epi32(bytes)));
  }
};

struct BlockQ4K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 144;
  static constexpr int kPart = 64;
  const uint8_t* b;
  ScalesK scales;
  [[gnu::always_inline]] explicit BlockQ4K(const uint8_t* block) : b(block), scales(block) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int p, const Emit& emit) const {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_broadcast_ss(scales.scale + 2 * p + j);
      const __m256 min = _mm256_broadcast_ss(scales.min + 2 * p + j);
#pragma GCC unroll 4
      for (int i = 0; i < 32; i += 8) {
        const __m256i q = nibbles(bytes_at(b + 16 + p * 32 + i), j);
        emit(p * 64 + j * 32 + i, _mm256_sub_ps(scaled(scale, q), min));
      }
    }
  }
};

struct BlockQ5K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 176;
  static constexpr int kPart = 64;
  const uint8_t* b;
  ScalesK scales;
  [[gnu::always_inline]] explicit BlockQ5K(const uint8_t* block) : b(block), scales(block) {}
  template <class Emit>
  [[gnu::always_inline]] void part(int p, const Emit& emit) const {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_broadcast_ss(scales.scale + 2 * p + j);
      const __m256 min = _mm256_broadcast_ss(scales.min + 2 * p + j);
#pragma GCC unroll 4
      for (int i = 0; i < 32; i += 8) {
        const __m256i low = nibbles(bytes_at(b + 48 + p * 32 + i), j);
        const __m256i high = _mm256_srli_epi32(bytes_at(b + 16 + i), 2 * p + j);
        const __m256i bit = _mm256_slli_epi32(and_bits(high, 1), 4);
        emit(p * 64 + j * 32 + i, _mm256_sub_ps(scaled(scale, _mm256_or_si256(low, bit)), min));
      }
    }
  }
};

struct BlockQ6K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 210;
  static constexpr int kPart = 64;
  const uint8_t* b;
  alignas(32) float scale[16];
  [[gnu::always_inline]] explicit BlockQ6K(const uint8_t* block) : b(block) {
    const __m256 d = _mm256_set1_ps(half_at(b + 208));
    _mm256_store_ps(scale, scaled(d, signed_bytes_at(b + 192)));
    _mm256_store_ps(scale + 8, scaled(d, signed_bytes_at(b + 200)));
  }
  // Parts 0 and 1 are the low and high nibbles of the first 64 low bytes, 2 and 3 of the others.
  template <class Emit>
  [[gnu::always_inline]] void part(int p, const Emit& emit) const {
#pragma GCC unroll 8
    for (int i = 0; i < 64; i += 8) {
      const __m256i low = nibbles(bytes_at(b + p / 2 * 64 + i), p % 2);
      const __m256i high = bytes_at(b + 128 + p / 2 * 32 + i % 32);
      const __m256i pair = and_bits(_mm256_srli_epi32(high, p % 2 * 4 + i / 32 * 2), 3);
      const __m256i q = _mm256_or_si256(low, _mm256_slli_epi32(pair, 4));
      const __m256 d = _mm256_broadcast_ss(scale + p * 4 + i / 16);
      emit(p * 64 + i, scaled(d, _mm256_sub_epi32(q, _mm256_set1_epi32(32))));
    }
  }
};

}  // namespace
}  // namespace tandem
