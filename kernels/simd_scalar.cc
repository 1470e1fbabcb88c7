// The reference: the published formulas in plain C++, one rounding per operation, and activations
// as they are.
#include <cmath>
#include <cstring>

#include "kernels/float_dot.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr int kLanes = 8;

uint8_t u8(const std::byte* p) { return std::to_integer<uint8_t>(*p); }
int8_t i8(const std::byte* p) { return static_cast<int8_t>(std::to_integer<uint8_t>(*p)); }

uint16_t load_u16(const std::byte* p) {
  uint16_t word = 0;
  std::memcpy(&word, p, sizeof word);
  return word;
}

float load_f16(const std::byte* p) { return f16_to_f32(load_u16(p)); }

void block_q4_0(const std::byte* b, float* dst) {
  const float d = load_f16(b);
  for (int i = 0; i < 16; ++i) {
    dst[i] = d * static_cast<float>((u8(b + 2 + i) & 0xF) - 8);
    dst[i + 16] = d * static_cast<float>((u8(b + 2 + i) >> 4) - 8);
  }
}

void block_q5_0(const std::byte* b, float* dst) {
  const float d = load_f16(b);
  const uint32_t high = load_u16(b + 2) | (static_cast<uint32_t>(load_u16(b + 4)) << 16);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(b + 6 + i);
    const int low_q = (q & 0xF) | static_cast<int>((high >> i) & 1U) << 4;
    const int high_q = (q >> 4) | static_cast<int>((high >> (i + 16)) & 1U) << 4;
    dst[i] = d * static_cast<float>(low_q - 16);
    dst[i + 16] = d * static_cast<float>(high_q - 16);
  }
}

void block_q8_0(const std::byte* b, float* dst) {
  const float d = load_f16(b);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(i8(b + 2 + i));
}

// The 6-bit scale and minimum of sub-block j in [0, 8), packed in 12 bytes of Q4_K and Q5_K:
// the first four as low six bits of bytes 0…3 and 4…7, the others from nibbles of bytes 8…11 with
// their two upper bits in the two upper bits of the former.
struct ScaleMin {
  float scale;
  float min;
};

ScaleMin scale_min(const std::byte* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(u8(packed + j) & 0x3F),
            static_cast<float>(u8(packed + j + 4) & 0x3F)};
  }
  const int nibbles = u8(packed + j + 4);
  const int scale = (nibbles & 0xF) | (u8(packed + j - 4) >> 6) << 4;
  const int min = (nibbles >> 4) | (u8(packed + j) >> 6) << 4;
  return {static_cast<float>(scale), static_cast<float>(min)};
}

void block_q4_k(const std::byte* b, float* dst) {
  const float d = load_f16(b);
  const float dmin = load_f16(b + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(b + 4, j);
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    const std::byte* q = b + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = (u8(q + i) >> (j % 2 * 4)) & 0xF;
      dst[j * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

void block_q5_k(const std::byte* b, float* dst) {
  const float d = load_f16(b);
  const float dmin = load_f16(b + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(b + 4, j);
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    const std::byte* high = b + 16;
    const std::byte* q = b + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = ((u8(q + i) >> (j % 2 * 4)) & 0xF) | ((u8(high + i) >> j) & 1) << 4;
      dst[j * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

void block_q6_k(const std::byte* b, float* dst) {
  const float d = load_f16(b + 208);
  for (int j = 0; j < 8; ++j) {  // 32 weights each, four of them share 64 low and 32 high bytes
    const std::byte* low = b + j / 4 * 64 + j % 2 * 32;
    const std::byte* high = b + 128 + j / 4 * 32;
    const int low_shift = j % 4 / 2 * 4;
    const int high_shift = j % 4 * 2;
    for (int i = 0; i < 32; ++i) {
      const float scale = d * static_cast<float>(i8(b + 192 + j * 2 + i / 16));
      const int value = ((u8(low + i) >> low_shift) & 0xF) | ((u8(high + i) >> high_shift) & 3)
                                                                 << 4;
      dst[j * 32 + i] = scale * static_cast<float>(value - 32);
    }
  }
}

template <int kElems, int kBytes>
void each_block(void (*block)(const std::byte*, float*), const std::byte* src, float* dst,
                int64_t n) {
  for (int64_t i = 0; i < n / kElems; ++i) block(src + i * kBytes, dst + i * kElems);
}

void dequantize_scalar(DType type, const std::byte* src, float* dst, int64_t n) {
  switch (type) {
    case DType::kF32:
      if (n > 0) std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = load_f16(src + 2 * i);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = static_cast<uint32_t>(load_u16(src + 2 * i)) << 16;
        std::memcpy(dst + i, &bits, sizeof bits);
      }
      return;
    case DType::kQ4_0:
      return each_block<32, 18>(block_q4_0, src, dst, n);
    case DType::kQ5_0:
      return each_block<32, 22>(block_q5_0, src, dst, n);
    case DType::kQ8_0:
      return each_block<32, 34>(block_q8_0, src, dst, n);
    case DType::kQ4_K:
      return each_block<256, 144>(block_q4_k, src, dst, n);
    case DType::kQ5_K:
      return each_block<256, 176>(block_q5_k, src, dst, n);
    case DType::kQ6_K:
      return each_block<256, 210>(block_q6_k, src, dst, n);
  }
}

void store_f16_scalar(const float* src, std::byte* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t half = f32_to_f16(src[i]);
    std::memcpy(dst + 2 * i, &half, sizeof half);
  }
}

float dot_one(const float* a, const float* b, int64_t n) {
  float lane[kLanes] = {};
  const int64_t whole = n - n % kLanes;
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int l = 0; l < kLanes; ++l) lane[l] += a[c + l] * b[c + l];
  }
  for (int64_t c = whole; c < n; ++c) lane[c - whole] += a[c] * b[c];
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

void dot_scalar(const float* w, int64_t w_stride, int64_t n_rows, const float* const* x,
                int64_t n_tokens, int64_t n, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      out[t * out_stride + r] += dot_one(w + r * w_stride, x[t], n);
    }
  }
}

SoftmaxPart softmax_scalar(float* scores, int64_t n, float scale, float max) {
  SoftmaxPart part{max, 0.0F, 0.0F};
  for (int64_t j = 0; j < n; ++j) {
    scores[j] *= scale;
    part.max = std::max(part.max, scores[j]);
  }
  for (int64_t j = 0; j < n; ++j) {
    scores[j] = std::exp(scores[j] - part.max);
    part.sum += scores[j];
  }
  part.decay = std::exp(max - part.max);
  return part;
}

void decay_add_scalar(float decay, const float* part, int64_t n, float* acc) {
  for (int64_t c = 0; c < n; ++c) acc[c] = acc[c] * decay + part[c];
}

void dot_int8_scalar(const std::byte* groups, int64_t group_bytes, const std::byte* /*next*/,
                     int64_t n, const std::byte* const* x, int64_t n_tokens, float* out,
                     int64_t out_stride) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    const auto* columns = reinterpret_cast<const float*>(x[t]);
    for (int64_t r = 0; r < 32; ++r) {
      const std::byte* row = groups + r / 16 * group_bytes + r % 16 * 4;
      float sum = 0;
      for (int64_t c = 0; c < n; ++c) {
        sum += static_cast<float>(i8(row + c / 4 * 64 + c % 4)) * columns[c];
      }
      out[t * out_stride + r] += sum;
    }
  }
}

DotTile float_tile(XKind /*kind*/) { return {1, kMaxFloatTokens}; }

void silu_mul_scalar(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
}

}  // namespace

const SimdOps kScalarOps = {"scalar",         dequantize_scalar, store_f16_scalar, dot_scalar,
                            softmax_scalar,   decay_add_scalar,  nullptr,          nullptr,
                            dot_packed_float, float_tile,        dot_int8_scalar,  silu_mul_scalar};

}  // namespace tandem
