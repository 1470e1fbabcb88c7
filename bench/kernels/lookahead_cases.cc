#include <array>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/dense.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

constexpr int64_t kDistances = 3;

// A layer's router alone, and with the fitted guesses of the next layers' behind it, as a step has
// them: two calls. What they cost is the difference.
class LookaheadBench : public Bench {
 public:
  LookaheadBench(std::mt19937& rng, DType type, const Experts& shape, const Pools& pools,
                 const Wanted& wanted)
      : router_(rng, DType::kF32, shape.n, shape.d),
        guess_(rng, type, kDistances * shape.n, shape.d),
        routers_(router_.packed(), wanted.ring_bytes),
        guesses_(guess_.packed(), wanted.ring_bytes),
        x_(testing::random_floats(rng, shape.d)),
        y_(static_cast<size_t>((1 + kDistances) * shape.n)),
        pool_(*pools.back()) {}

  std::vector<Case> cases(int64_t tokens) override {
    if (tokens != 1) return {};
    return {make("router", false), make("router+lookahead", true)};
  }

 private:
  Case make(const char* kernel, bool ahead) {
    const int64_t n = router_.rows();
    Case c{
        kernel, dtype_info(guess_.type()).name, ahead ? (1 + kDistances) * n : n, router_.cols(), 1,
        &pool_};
    c.weight_bytes = dtype_bytes(DType::kF32, n * c.cols) +
                     (ahead ? dtype_bytes(guess_.type(), kDistances * n * c.cols) : 0);
    c.ops = 2 * c.rows * c.cols;
    c.call = [this, ahead, n, cols = c.cols] {
      const MatmulPart router{
          {DType::kF32, n, cols, routers_.next(), 0, Layout::kPacked}, nullptr, y_.data()};
      matmul({&router, 1}, x_.data(), 1, pool_.workspace(), pool_);
      if (!ahead) return;
      std::array<MatmulPart, kDistances> parts;
      const std::byte* weights = guesses_.next();
      for (int64_t i = 0; i < kDistances; ++i) {
        parts[static_cast<size_t>(i)] = {
            {guess_.type(), n, cols, weights + i * n / kGroupRows * guess_.group_bytes(), 0,
             Layout::kPacked},
            nullptr,
            y_.data() + (1 + i) * n};
      }
      matmul(parts, x_.data(), 1, pool_.workspace(), pool_);
    };
    c.check = [this, ahead, n, cols = c.cols] {
      const std::vector<float> seen = testing::as_seen_by(guess_.type(), x_.data(), cols);
      const std::vector<float> logits(y_.begin(), y_.begin() + n);
      std::string wrong = compare(
          logits, 1, n, cols, [&](int64_t r) { return router_.row(r); },
          [&](int64_t) { return x_.data(); }, f32_tolerance(cols));
      if (!ahead || !wrong.empty()) return wrong;
      const std::vector<float> guessed(y_.begin() + n, y_.end());
      return compare(
          guessed, 1, kDistances * n, cols, [&](int64_t r) { return guess_.row(r); },
          [&](int64_t) { return seen.data(); }, f32_tolerance(cols));
    };
    return c;
  }

  Matrix router_;
  Matrix guess_;
  Ring routers_;
  Ring guesses_;
  std::vector<float> x_;
  std::vector<float> y_;  // of the router, then of each distance
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<Bench> lookahead_bench(std::mt19937& rng, const std::string& type,
                                       const Experts& shape, const Pools& pools,
                                       const Wanted& wanted) {
  return std::make_unique<LookaheadBench>(rng, type_named(type), shape, pools, wanted);
}

}  // namespace tandem::bench
