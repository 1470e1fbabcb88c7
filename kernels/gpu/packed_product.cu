#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/packed_product.h"

namespace VGPU_NAMESPACE {
namespace {

// With so many tokens, tiles of 32 at a time.
constexpr int kManyTokens = 9;

template <DType kType>
void launch(void* stream, const PackedWeights& w, const PackedX& x, const TokenList& tokens,
            const float* bias, float* y) {
  const unsigned groups = static_cast<unsigned>((w.rows + 15) / 16);
  if (groups == 0 || tokens.n == 0) return;
  if (tokens.n < kManyTokens) {
    VGPU_LAUNCH((product<kType, 1>), dim3(groups, (tokens.n + 7) / 8), dim3(kProductThreads), 0,
                stream, w, x, tokens, bias, y);
  } else {
    VGPU_LAUNCH((product<kType, 4>), dim3(groups, (tokens.n + 31) / 32), dim3(kProductThreads), 0,
                stream, w, x, tokens, bias, y);
  }
}

}  // namespace

void product(void* stream, DType type, const PackedWeights& w, const PackedX& x,
             const TokenList& tokens, const float* bias, float* y) {
  const auto run = [&](auto launch_type) { launch_type(stream, w, x, tokens, bias, y); };
  switch (type) {
    case DType::kF32:
      return run(launch<DType::kF32>);
    case DType::kF16:
      return run(launch<DType::kF16>);
    case DType::kBF16:
      return run(launch<DType::kBF16>);
    case DType::kQ4_0:
      return run(launch<DType::kQ4_0>);
    case DType::kQ5_0:
      return run(launch<DType::kQ5_0>);
    case DType::kQ8_0:
      return run(launch<DType::kQ8_0>);
    case DType::kQ4_K:
      return run(launch<DType::kQ4_K>);
    case DType::kQ5_K:
      return run(launch<DType::kQ5_K>);
    case DType::kQ6_K:
      return run(launch<DType::kQ6_K>);
  }
}

}  // namespace VGPU_NAMESPACE
