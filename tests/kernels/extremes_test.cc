// Products with weights and activations at the ends of what their formats hold, with one token, a
// few, and enough for tiles of every kind, against float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::as_seen_by;
using testing::Dot;
using testing::IsaScope;
using testing::kAllTypes;
using testing::Packed;
using testing::product;
using testing::random_floats;
using testing::RandomWeights;
using testing::reference_dot;

constexpr int64_t kRows = 32;
constexpr int64_t kCols = 512;
// One token, a few, and more than two tiles of AMX.
constexpr int64_t kTokens[] = {1, 9, 33};
// As in dense_test.cc.
constexpr double kTolerance = 70.0 / (1 << 24);
constexpr double kLeastFloat = 0x1p-149;

enum class Extreme { kZero, kDenormal, kLeastNormal, kLargest, kMixed };

const char* name_of(Extreme extreme) {
  switch (extreme) {
    case Extreme::kZero:
      return "zero";
    case Extreme::kDenormal:
      return "denormal";
    case Extreme::kLeastNormal:
      return "least normal";
    case Extreme::kLargest:
      return "largest";
    case Extreme::kMixed:
      return "mixed";
  }
  return "?";
}

// Bits of a value with that many bits of exponent and mantissa, any sign. The largest f32 and bf16
// are 2^100: products of larger ones leave f32.
uint32_t extreme_bits(Extreme extreme, int exponent_bits, int mantissa_bits, std::mt19937& rng) {
  if (extreme == Extreme::kMixed) extreme = static_cast<Extreme>(rng() % 4);
  const uint32_t sign = static_cast<uint32_t>(rng() % 2) << (exponent_bits + mantissa_bits);
  const uint32_t mantissa = (1U << mantissa_bits) - 1;
  const uint32_t top = exponent_bits == 5 ? 30 : 227;
  switch (extreme) {
    case Extreme::kZero:
      return sign;
    case Extreme::kDenormal:
      return sign | (1 + static_cast<uint32_t>(rng()) % mantissa);
    case Extreme::kLeastNormal:
      return sign | 1U << mantissa_bits;
    default:
      return sign | top << mantissa_bits | mantissa;
  }
}

// Random weights whose f16 scales, or which themselves where there are none, are extreme.
RandomWeights extreme_weights(std::mt19937& rng, DType type, Extreme extreme) {
  RandomWeights w(rng, type, kRows, kCols);
  const DTypeInfo& info = dtype_info(type);
  const bool wide = type == DType::kF32 || type == DType::kBF16;
  const int mantissa_bits = type == DType::kF32 ? 23 : type == DType::kBF16 ? 7 : 10;
  std::vector<int> offsets = testing::scale_offsets(type);
  if (offsets.empty()) offsets = {0};
  for (int64_t b = 0; b < w.view().bytes(); b += info.block_bytes) {
    for (const int offset : offsets) {
      const uint32_t bits = extreme_bits(extreme, wide ? 8 : 5, mantissa_bits, rng);
      std::memcpy(w.data() + b + offset, &bits, type == DType::kF32 ? 4 : 2);
    }
  }
  return w;
}

// vdpbf16ps and AMX take denormals for zeros (kernels/README.md); our loop for one token, too.
bool flushes_bf16(const SimdOps* ops) {
  const std::string name = ops->name;
  return name == "avx512-bf16" || name == "avx512-amx";
}

// seen: [tokens, kCols], x as products see it. Each product of a column may be off by `lost`.
void check(const std::vector<float>& weights, const std::vector<float>& seen,
           const std::vector<float>& y, double lost) {
  const auto n = static_cast<int64_t>(seen.size()) / kCols;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t r = 0; r < kRows; ++r) {
      const Dot dot = reference_dot(weights.data() + r * kCols, seen.data() + t * kCols, kCols);
      const double limit = kTolerance * dot.magnitude + kCols * (kLeastFloat + lost);
      INFO("token " << t << " row " << r << ": expected " << dot.sum << " got "
                    << y[static_cast<size_t>(t * kRows + r)]);
      REQUIRE(std::abs(y[static_cast<size_t>(t * kRows + r)] - dot.sum) <= limit);
    }
  }
}

std::vector<float> all_seen(DType type, const std::vector<float>& x) {
  std::vector<float> seen;
  for (size_t t = 0; t < x.size(); t += kCols) {
    const std::vector<float> row = as_seen_by(type, x.data() + t, kCols);
    seen.insert(seen.end(), row.begin(), row.end());
  }
  return seen;
}

}  // namespace

TEST_CASE("products with extreme weights of every format match float64, packed or not") {
  std::mt19937 rng(21);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      for (const Extreme extreme : {Extreme::kZero, Extreme::kDenormal, Extreme::kLeastNormal,
                                    Extreme::kLargest, Extreme::kMixed}) {
        const RandomWeights w = extreme_weights(rng, type, extreme);
        const std::vector<float> weights = w.dequantized();
        const Packed packed(w.view());
        // The largest bf16 denormal, times tokens of a few units.
        const double lost = type == DType::kBF16 && flushes_bf16(ops) ? 0x1p-126 * 8 : 0;
        for (const int64_t n : kTokens) {
          const std::vector<float> x = random_floats(rng, n * kCols);
          const std::vector<float> seen = all_seen(type, x);
          INFO(ops->name << " " << dtype_info(type).name << " " << name_of(extreme) << ", " << n
                         << " tokens");
          check(weights, seen, product(w.view(), x), lost);
          check(weights, seen, product(packed.view(), x), lost);
        }
      }
    }
  }
}

TEST_CASE("extreme tokens beside each other match float64, whatever the format of the weights") {
  // In turn: zeros, denormals, small, ordinary, large.
  constexpr float kScales[] = {0.0F, 1e-39F, 1e-30F, 1.0F, 1e30F};
  std::mt19937 rng(22);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const RandomWeights w(rng, type, kRows, kCols);
      const std::vector<float> weights = w.dequantized();
      float largest = 0;
      for (const float v : weights) largest = std::max(largest, std::abs(v));
      const Packed packed(w.view());
      for (const int64_t n : kTokens) {
        for (size_t first = 0; first < std::size(kScales); ++first) {
          std::vector<float> x = random_floats(rng, n * kCols);
          for (int64_t i = 0; i < n * kCols; ++i) {
            x[static_cast<size_t>(i)] *=
                kScales[(first + static_cast<size_t>(i / kCols)) % std::size(kScales)];
          }
          const bool flushed = x_kind(type) == XKind::kBf16 && flushes_bf16(ops);
          const double lost = flushed ? 0x1p-126 * largest : 0;
          INFO(ops->name << " " << dtype_info(type).name << ", " << n << " tokens, scale "
                         << kScales[first] << " first");
          const std::vector<float> seen = all_seen(type, x);
          check(weights, seen, product(w.view(), x), lost);
          check(weights, seen, product(packed.view(), x), lost);
        }
      }
    }
  }
}

}  // namespace tandem
