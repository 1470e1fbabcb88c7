// AMX: products with matrix units. A line of a packed group (packed.h), four int8 or two bf16 of 16
// rows, is what AMX takes as a row of its second operand; the first has a token in each row. What
// AMX does not help, F32, F16 and few tokens, is AVX-512's.
#include "kernels/simd_amx_bf16.h"
#include "kernels/simd_amx_k.h"
#include "kernels/simd_amx_q8.h"

namespace tandem {
namespace {

// From so many tokens on, tiles beat vectors.
constexpr int64_t kFromTokensK = 8;
constexpr int64_t kFromTokensQ8 = 12;

constexpr int kGroups = 4;

using DotPacked = decltype(SimdOps::dot_packed);

// What vectors do is cut to what they take at once.
void dot_in_vectors(DotPacked dot, DotTile most, DType type, const PackedArgs& a, int64_t n_groups,
                    int64_t n_tokens) {
  for (int64_t g = 0; g < n_groups; g += most.groups) {
    const int64_t groups = min_of(most.groups, n_groups - g);
    const uint8_t* group = a.group + g * a.group_stride;
    const int64_t shares = (n_tokens + most.tokens - 1) / most.tokens;
    for (int64_t i = 0; i < shares; ++i) {
      const int64_t first = n_tokens * i / shares;
      const int64_t n = n_tokens * (i + 1) / shares - first;
      const uint8_t* next = i + 1 < shares          ? group
                            : g + groups < n_groups ? group + groups * a.group_stride
                                                    : a.next;
      dot(type, reinterpret_cast<const std::byte*>(group), groups, a.group_stride,
          reinterpret_cast<const std::byte*>(next), a.cols, a.first_col, a.n_cols, a.x + first, n,
          a.out + first * a.out_stride + g * 16, a.out_stride);
    }
  }
}

template <class Format>
void dot_k_quants_packed(DType /*type*/, const std::byte* group, int64_t n_groups,
                         int64_t group_stride, const std::byte* next, int64_t cols,
                         int64_t first_col, int64_t n_cols, const std::byte* const* x,
                         int64_t n_tokens, float* out, int64_t out_stride) {
  dot_packed_format<AmxLanes, Format>(
      {reinterpret_cast<const uint8_t*>(group), group_stride,
       reinterpret_cast<const uint8_t*>(next), cols, first_col, n_cols, x, out, out_stride},
      n_groups, n_tokens);
}

template <class Format>
void dot_k(DType type, const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  if (n_tokens >= kFromTokensK) return dot_k_in_tiles<Format>(a, n_groups, n_tokens);
  dot_in_vectors(dot_k_quants_packed<Format>, tile_on<AmxLanes>(XKind::kQ8K), type, a, n_groups,
                 n_tokens);
}

template <class Weights, int kOffset>
void dot_32(DType type, const PackedArgs& a, int64_t n_groups, int64_t n_tokens) {
  if (n_tokens >= kFromTokensQ8) return dot_q8_in_tiles<Weights, kOffset>(a, n_groups, n_tokens);
  dot_in_vectors(kAvx512Bf16Ops.dot_packed, kAvx512Bf16Ops.dot_tile(XKind::kQ8), type, a, n_groups,
                 n_tokens);
}

void dot_packed_amx(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                    const std::byte* next, int64_t cols, int64_t first_col, int64_t n_cols,
                    const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride) {
  const PackedArgs a{reinterpret_cast<const uint8_t*>(group),
                     group_stride,
                     reinterpret_cast<const uint8_t*>(next),
                     cols,
                     first_col,
                     n_cols,
                     x,
                     out,
                     out_stride};
  switch (type) {
    case DType::kF32:
    case DType::kF16:
      return dot_in_vectors(kAvx512Bf16Ops.dot_packed, kAvx512Bf16Ops.dot_tile(XKind::kFloat), type,
                            a, n_groups, n_tokens);
    case DType::kBF16:
      return dot_bf16(a, n_groups, n_tokens);
    case DType::kQ4_0:
      return dot_32<WeightsQ40<Avx512Lanes>, 8>(type, a, n_groups, n_tokens);
    case DType::kQ5_0:
      return dot_32<WeightsQ50<Avx512Lanes>, 16>(type, a, n_groups, n_tokens);
    case DType::kQ8_0:
      return dot_32<WeightsQ80<Avx512Lanes>, 128>(type, a, n_groups, n_tokens);
    case DType::kQ4_K:
      return dot_k<PackedQ4K<AmxLanes>>(type, a, n_groups, n_tokens);
    case DType::kQ5_K:
      return dot_k<PackedQ5K<AmxLanes>>(type, a, n_groups, n_tokens);
    case DType::kQ6_K:
      return dot_k<PackedQ6K<AmxLanes>>(type, a, n_groups, n_tokens);
  }
}

DotTile dot_tile_amx(XKind /*kind*/) { return {kGroups, kMostTileTokens}; }

}  // namespace

const SimdOps kAmxOps = {
    "avx512-amx", nullptr, nullptr,        nullptr,      nullptr, nullptr,
    nullptr,      nullptr, dot_packed_amx, dot_tile_amx, nullptr,
};

}  // namespace tandem
