#include "kernels/quant.h"

#include <bit>
#include <cstring>

#include "kernels/check.h"
#include "kernels/simd.h"

namespace tandem {
namespace {

constexpr DTypeInfo kInfoF32{"f32", 1, 4};
constexpr DTypeInfo kInfoF16{"f16", 1, 2};
constexpr DTypeInfo kInfoBF16{"bf16", 1, 2};
constexpr DTypeInfo kInfoQ40{"q4_0", 32, 18};
constexpr DTypeInfo kInfoQ50{"q5_0", 32, 22};
constexpr DTypeInfo kInfoQ80{"q8_0", 32, 34};
constexpr DTypeInfo kInfoQ4K{"q4_K", 256, 144};
constexpr DTypeInfo kInfoQ5K{"q5_K", 256, 176};
constexpr DTypeInfo kInfoQ6K{"q6_K", 256, 210};

constexpr uint16_t kF16Exponent = 0x7C00;
constexpr uint16_t kBF16Exponent = 0x7F80;

// True when no 16-bit word at src, src + stride, … has every bit of `exponent` set.
bool finite_words(const std::byte* src, int64_t stride, int64_t count, uint16_t exponent) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t word = 0;
    std::memcpy(&word, src + i * stride, sizeof word);
    if ((word & exponent) == exponent) return false;
  }
  return true;
}

bool finite_f32(const std::byte* src, int64_t n) {
  // The upper half of a little-endian float has the layout of a bfloat16.
  return finite_words(src + 2, 4, n, kBF16Exponent);
}

}  // namespace

const DTypeInfo* dtype_info(uint32_t gguf_type_id) {
  switch (static_cast<DType>(gguf_type_id)) {
    case DType::kF32:
      return &kInfoF32;
    case DType::kF16:
      return &kInfoF16;
    case DType::kQ4_0:
      return &kInfoQ40;
    case DType::kQ5_0:
      return &kInfoQ50;
    case DType::kQ8_0:
      return &kInfoQ80;
    case DType::kQ4_K:
      return &kInfoQ4K;
    case DType::kQ5_K:
      return &kInfoQ5K;
    case DType::kQ6_K:
      return &kInfoQ6K;
    case DType::kBF16:
      return &kInfoBF16;
  }
  return nullptr;
}

const DTypeInfo& dtype_info(DType type) {
  const DTypeInfo* info = dtype_info(static_cast<uint32_t>(type));
  TANDEM_CHECK(info != nullptr, "type id %u", static_cast<uint32_t>(type));
  return *info;
}

int64_t dtype_bytes(DType type, int64_t n) {
  const DTypeInfo& info = dtype_info(type);
  // All blocks are powers of two, and a division takes long for what is called this often.
  const auto elems = static_cast<unsigned>(info.block_elems);
  TANDEM_CHECK(n >= 0 && (n & (elems - 1)) == 0, "%lld weights of %s, blocks of %d",
               static_cast<long long>(n), info.name, info.block_elems);
  return (n >> std::countr_zero(elems)) * info.block_bytes;
}

void dequantize(DType type, const std::byte* src, float* dst, int64_t n) {
  const DTypeInfo& info = dtype_info(type);
  TANDEM_CHECK(n >= 0 && n % info.block_elems == 0, "%lld weights of %s, blocks of %d",
               static_cast<long long>(n), info.name, info.block_elems);
  simd().dequantize(type, src, dst, n);
}

void quantize_q8_0(const float* src, std::byte* dst) {
  constexpr int kElems = 32;
  constexpr int32_t kInfinity = 0x7F800000;
  constexpr float kLeastMagnitude = 1e-36F;  // 127 over a smaller one would overflow
  constexpr float kToInteger = 12582912.0F;  // 1.5 * 2^23: a sum with it has no places behind 1
  // Magnitudes are in the order of their bits, in which NaN comes last.
  int32_t most = 0;
  for (int i = 0; i < kElems; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(src[i]) & 0x7FFFFFFF;
    most = magnitude > most ? magnitude : most;
  }
  const bool finite = most < kInfinity;
  const float largest = std::bit_cast<float>(most);
  const bool zeros = !finite || largest < kLeastMagnitude;
  constexpr uint16_t kNan = 0x7E00;
  const uint16_t d = !finite ? kNan : zeros ? uint16_t{0} : f32_to_f16(largest / 127.0F);
  const float inverse = zeros ? 0.0F : 127.0F / largest;
  int8_t q[kElems] = {};
  if (!zeros) {
    for (int i = 0; i < kElems; ++i) {
      q[i] = static_cast<int8_t>(src[i] * inverse + kToInteger - kToInteger);
    }
  }
  std::memcpy(dst, &d, sizeof d);
  std::memcpy(dst + sizeof d, q, sizeof q);
}

bool all_finite(DType type, const std::byte* src, int64_t n) {
  const DTypeInfo& info = dtype_info(type);
  const int64_t blocks = dtype_bytes(type, n) / info.block_bytes;
  switch (type) {
    case DType::kF32:
      return finite_f32(src, n);
    case DType::kF16:
      return finite_words(src, 2, n, kF16Exponent);
    case DType::kBF16:
      return finite_words(src, 2, n, kBF16Exponent);
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      return finite_words(src, info.block_bytes, blocks, kF16Exponent);
    case DType::kQ4_K:
    case DType::kQ5_K:  // d, then dmin
      return finite_words(src, info.block_bytes, blocks, kF16Exponent) &&
             finite_words(src + 2, info.block_bytes, blocks, kF16Exponent);
    case DType::kQ6_K:  // d closes the block
      return finite_words(src + info.block_bytes - 2, info.block_bytes, blocks, kF16Exponent);
  }
  return false;
}

}  // namespace tandem
