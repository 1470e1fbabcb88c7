#include <algorithm>
#include <stdexcept>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/dense.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

class MatmulBench : public Bench {
 public:
  MatmulBench(std::mt19937& rng, DType type, int64_t rows, int64_t cols, const Pools& pools,
              const Wanted& wanted)
      : matrix_(rng, type, rows, cols),
        ring_(matrix_.packed(), wanted.ring_bytes),
        x_(testing::random_floats(rng, wanted.most_tokens * cols)),
        pools_(pools),
        wanted_(wanted) {}

  std::vector<Case> cases(int64_t tokens) override {
    std::vector<Case> out;
    for (const auto& pool : pools_) {
      if (wanted_.has(kMatmul)) out.push_back(make(kMatmul, nullptr, tokens, *pool));
    }
    if (wanted_.has(kScalar)) out.push_back(make(kScalar, &kScalarOps, tokens, *pools_.front()));
    y_.assign(static_cast<size_t>(tokens * matrix_.rows()), 0.0F);
    return out;
  }

 private:
  Case make(const char* kernel, const SimdOps* isa, int64_t tokens, ThreadPool& pool) {
    const DType type = matrix_.type();
    Case c{kernel, dtype_info(type).name, matrix_.rows(), matrix_.cols(), tokens, &pool};
    c.weight_bytes = dtype_bytes(type, matrix_.rows() * matrix_.cols());
    c.ops = 2 * tokens * matrix_.rows() * matrix_.cols();
    c.peak = peak_of(type);
    c.isa = isa;
    c.call = [this, tokens, &pool] {
      const WeightView w{matrix_.type(), matrix_.rows(), matrix_.cols(), ring_.next(), 0,
                         Layout::kPacked};
      const MatmulPart part{w, nullptr, y_.data()};
      matmul({&part, 1}, x_.data(), tokens, pool.workspace(), pool);
    };
    c.check = [this, tokens] {
      const int64_t cols = matrix_.cols();
      std::vector<float> seen;
      const auto x = [&](int64_t t) {
        seen = testing::as_seen_by(matrix_.type(), x_.data() + t * cols, cols);
        return seen.data();
      };
      return compare(
          y_, tokens, matrix_.rows(), cols, [&](int64_t r) { return matrix_.row(r); }, x,
          f32_tolerance(cols));
    };
    return c;
  }

  Matrix matrix_;
  Ring ring_;
  std::vector<float> x_;  // [most tokens, cols]
  std::vector<float> y_;  // [tokens, rows]
  const Pools& pools_;
  const Wanted& wanted_;
};

}  // namespace

bool Wanted::has(const std::string& kernel) const {
  return std::find(kernels.begin(), kernels.end(), kernel) != kernels.end();
}

Peak peak_of(DType type) {
  if (type == DType::kF32 || type == DType::kF16) return Peak::kF32;
  return type == DType::kBF16 ? Peak::kBf16 : Peak::kInt8;
}

DType type_named(const std::string& name) {
  for (const DType type : testing::kAllTypes) {
    if (name == dtype_info(type).name) return type;
  }
  throw std::invalid_argument("unknown type of weights: " + name);
}

std::unique_ptr<Bench> matmul_bench(std::mt19937& rng, const std::string& type, int64_t rows,
                                    int64_t cols, const Pools& pools, const Wanted& wanted) {
  return std::make_unique<MatmulBench>(rng, type_named(type), rows, cols, pools, wanted);
}

}  // namespace tandem::bench
