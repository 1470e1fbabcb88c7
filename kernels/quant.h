// Block formats of weights, and their exact meaning as float32.
// Source of the layouts: the GGUF/ggml block formats as published with the GGUF specification.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem {

// Values are the tensor type ids of GGUF files.
enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ5_0 = 6,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct DTypeInfo {
  const char* name;  // as llama.cpp prints it: "f32", "q4_K"
  int block_elems;   // weights in a block
  int block_bytes;   // bytes of a block
};

// Activations as dot products with weights of a type take them.
enum class XKind : uint8_t {
  kFloat,  // f32: the row itself; for f32 and f16 weights
  kBf16,   // rounded to bf16; for bf16
  kQ8,     // int8 in blocks of 32, scale = largest magnitude / 127 (blocks below 1e-36 are zeros);
           // for q8_0, q4_0, q5_0
  kQ8K,    // the same in blocks of 256; for q4_K, q5_K, q6_K
};
// nullptr for a type id that no kernel here reads.
const DTypeInfo* dtype_info(uint32_t gguf_type_id);
const DTypeInfo& dtype_info(DType type);

// Bytes of n weights; n must be a multiple of the type's block_elems.
int64_t dtype_bytes(DType type, int64_t n);

// src: n weights in blocks of `type`, any alignment. dst: [n] f32. Bit-exact with the published
// formula evaluated in float32, one rounding per operation.
void dequantize(DType type, const std::byte* src, float* dst, int64_t n);

// src: 32 f32; dst: a block of kQ8_0, any alignment. The rounding is that of ggml's
// quantize_row_q8_0 (ggml-quants.c, and its vectorised forms in halves, which go to even): scale
// d = largest magnitude / 127 as f16, weights x * 127 / largest magnitude to the nearest int8. So a
// largest magnitude beyond 127 * 65504 has an infinite scale. Blocks that are smaller than 1e-36
// are zeros. Where a value is not finite the scale is NaN and all weights are 0. The same bytes on
// every instruction set.
void quantize_q8_0(const float* src, std::byte* dst);

// True when every scale (or float weight) in n weights is finite.
bool all_finite(DType type, const std::byte* src, int64_t n);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  // round to nearest even

}  // namespace tandem
