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

// In vectors, which take fewer tokens and groups at once.
void dot_in_vectors(DType type, const PackedArgs& a, int64_t n_groups, int64_t n_tokens,
                    XKind kind) {
  const DotTile most = tile_on<AmxLanes>(kind);
  const int64_t shares = (n_tokens + most.tokens - 1) / most.tokens;
  for (int64_t g = 0; g < n_groups; g += most.groups) {
    const int64_t groups = min_of(most.groups, n_groups - g);
    PackedArgs part = a;
    part.group = a.group + g * a.group_stride;
    const uint8_t* after = g + groups < n_groups ? part.group + groups * a.group_stride : a.after();
    for (int64_t i = 0; i < shares; ++i) {
      const int64_t first = n_tokens * i / shares;
      part.ahead = {reinterpret_cast<const std::byte*>(i + 1 < shares ? part.group : after), 0, 1};
      part.x = a.x + first;
      part.out = a.out + first * a.out_stride + g * 16;
      dot_packed_type<AmxLanes>(type, part, groups, n_tokens * (i + 1) / shares - first);
    }
  }
}

void dot_packed_amx(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                    const Ahead& ahead, int64_t cols, int64_t first_col, int64_t n_cols,
                    const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride) {
  const PackedArgs a =
      packed_args(group, group_stride, ahead, cols, first_col, n_cols, x, out, out_stride);
  switch (type) {
    case DType::kF32:
    case DType::kF16:
      return dot_in_vectors(type, a, n_groups, n_tokens, XKind::kFloat);
    case DType::kBF16:
      return dot_bf16(a, n_groups, n_tokens);
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      if (n_tokens < kFromTokensQ8) return dot_in_vectors(type, a, n_groups, n_tokens, XKind::kQ8);
      return dot_q8(type, a, n_groups, n_tokens);
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      if (n_tokens < kFromTokensK) return dot_in_vectors(type, a, n_groups, n_tokens, XKind::kQ8K);
      return dot_k(type, a, n_groups, n_tokens);
  }
}

DotTile dot_tile_amx(XKind /*kind*/) { return {kGroups, kMostTileTokens}; }

}  // namespace

const SimdOps kAmxOps = {
    "avx512-amx", nullptr, nullptr,        nullptr,      nullptr, nullptr,
    nullptr,      nullptr, dot_packed_amx, dot_tile_amx, nullptr, nullptr,
};

}  // namespace tandem
