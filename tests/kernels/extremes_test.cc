// Products with weights and activations at the ends of what their formats hold, with one token, a
// few, and enough for tiles of every kind, against float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "kernels/expert_ffn.h"
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
RandomWeights extreme_weights(std::mt19937& rng, DType type, Extreme extreme, int64_t rows,
                              int64_t cols) {
  RandomWeights w(rng, type, rows, cols);
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
        const RandomWeights w = extreme_weights(rng, type, extreme, kRows, kCols);
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

// |got - want| within the roundings of a product, and of what went into it, and a denormal's loss.
struct Bound {
  double want = 0;
  double limit = 0;
};

// silu(gate x) * up x, when both products may be off by as much as check() allows. The slope of
// silu is below 1.1; the last term is what exp, the division and the product round.
Bound hidden_bound(const Dot& gate, const Dot& up, double lost) {
  const double g = gate.sum / (1 + std::exp(-gate.sum));
  const double off_gate = kTolerance * gate.magnitude + lost;
  const double off_up = kTolerance * up.magnitude + lost;
  return {g * up.sum, 1.1 * off_gate * (std::abs(up.sum) + off_up) + std::abs(g) * off_up +
                          1e-6 * std::abs(g * up.sum) + 0x1p-126 * (1 + std::abs(up.sum))};
}

TEST_CASE("an expert with extreme weights in one of its matrices matches float64, packed or not") {
  constexpr int64_t kD = 256;
  constexpr int64_t kFf = 256;
  std::mt19937 rng(23);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      // What is lost by an instruction that takes denormals for zeros has no bound here yet.
      if (type == DType::kBF16 && flushes_bf16(ops)) continue;
      const double lost = kD * 0x1p-149;
      for (const int extreme : {0, 1, 2}) {
        std::vector<RandomWeights> w;
        for (int m = 0; m < 3; ++m) {
          w.push_back(extreme == m ? extreme_weights(rng, type, Extreme::kMixed, kFf, kD)
                                   : RandomWeights(rng, type, kFf, kD));
        }
        const std::vector<float> gate = w[0].dequantized();
        const std::vector<float> up = w[1].dequantized();
        const std::vector<float> down = w[2].dequantized();
        const Packed packed[] = {Packed(w[0].view()), Packed(w[1].view()), Packed(w[2].view())};
        for (const int64_t n : kTokens) {
          const std::vector<float> x = random_floats(rng, n * kD, 0.01F);
          std::vector<ExpertRow> rows;
          for (int32_t t = 0; t < n; ++t) rows.push_back({t, 0.5F});
          for (const ExpertWeights& weights :
               {ExpertWeights{w[0].view(), w[1].view(), w[2].view()},
                ExpertWeights{packed[0].view(), packed[1].view(), packed[2].view()}}) {
            INFO(ops->name << " " << dtype_info(type).name << " matrix " << extreme << ", " << n
                           << " tokens"
                           << (weights.gate.layout == Layout::kPacked ? ", packed" : ""));
            const ExpertCall call{weights, rows};
            std::vector<float> y(x.size());
            std::vector<float> hidden(static_cast<size_t>(n * kFf));
            Workspace scratch;
            expert_ffn({&call, 1}, x.data(), n, kD, y.data(), hidden.data(), scratch, serial_for);
            for (int64_t t = 0; t < n; t += 4) {
              const std::vector<float> seen = as_seen_by(type, x.data() + t * kD, kD);
              const float* row = hidden.data() + t * kFf;
              for (int64_t r = 0; r < kFf; r += 5) {
                const Bound bound =
                    hidden_bound(reference_dot(gate.data() + r * kD, seen.data(), kD),
                                 reference_dot(up.data() + r * kD, seen.data(), kD), lost);
                INFO("token " << t << " row " << r << " expected " << bound.want << " got "
                              << row[r]);
                REQUIRE(std::abs(row[r] - bound.want) <= bound.limit);
              }
              const std::vector<float> hidden_seen = as_seen_by(type, row, kFf);
              double largest = 1;
              for (int64_t c = 0; c < kFf; ++c)
                largest = std::max(largest, std::abs(static_cast<double>(row[c])));
              for (int64_t r = 0; r < kD; r += 5) {
                const Dot dot = reference_dot(down.data() + r * kFf, hidden_seen.data(), kFf);
                const double got = static_cast<double>(y[static_cast<size_t>(t * kD + r)]);
                INFO("token " << t << " output " << r << " expected " << 0.5 * dot.sum << " got "
                              << got);
                REQUIRE(std::abs(got - 0.5 * dot.sum) <=
                        kTolerance * dot.magnitude + lost * largest);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace tandem
