#include <algorithm>
#include <array>
#include <cmath>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/expert_ffn.h"
#include "kernels/packed.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

constexpr size_t kExperts = 8;
// The rounding of a hidden value may fall to the other side than float64's.
constexpr double kTolerance = 2e-3;

float weight_of(size_t expert) { return 0.1F + 0.01F * static_cast<float>(expert); }

class FfnBench : public Bench {
 public:
  FfnBench(std::mt19937& rng, DType type, int64_t ff, int64_t d, const Pools& pools,
           const Wanted& wanted)
      : gate_(rng, type, ff, d),
        up_(rng, type, ff, d),
        down_(rng, type, d, ff),
        ring_(expert(), wanted.ring_bytes),
        x_(testing::random_floats(rng, wanted.most_tokens * d)),
        pool_(*pools.back()) {}

  std::vector<Case> cases(int64_t tokens) override {
    const int64_t ff = gate_.rows();
    const int64_t d = gate_.cols();
    const DType type = gate_.type();
    rows_.clear();
    for (int64_t t = 0; t < tokens; ++t) rows_.push_back({static_cast<int32_t>(t), 0});
    y_.assign(static_cast<size_t>(tokens * d), 0.0F);
    hidden_.resize(kExperts * static_cast<size_t>(tokens * ff));
    for (size_t e = 0; e < kExperts; ++e) {
      rows_of_[e] = rows_;
      for (ExpertRow& row : rows_of_[e]) row.weight = weight_of(e);
    }
    Case c{kExpertFfn, dtype_info(type).name, ff, d, tokens, &pool_};
    c.weight_bytes = kExperts * 3 * dtype_bytes(type, ff * d);
    c.ops = kExperts * 3 * 2 * tokens * ff * d;
    c.peak = peak_of(type);
    c.call = [this, tokens] { call(tokens); };
    c.check = [this, tokens] {
      std::fill(y_.begin(), y_.end(), 0.0F);
      call(tokens);
      return check(tokens);
    };
    return {c};
  }

 private:
  // As models are packed at load: the groups of gate and up taking turns, then down.
  std::vector<std::byte> expert() const {
    const int64_t group = gate_.group_bytes();
    const std::vector<std::byte> down = down_.packed();
    const int64_t groups = gate_.rows() / kGroupRows;
    std::vector<std::byte> out(static_cast<size_t>(2 * groups * group) + down.size());
    for (int64_t g = 0; g < groups; ++g) {
      gate_.packed_group(g, out.data() + 2 * g * group);
      up_.packed_group(g, out.data() + (2 * g + 1) * group);
    }
    std::copy(down.begin(), down.end(), out.data() + 2 * groups * group);
    return out;
  }

  ExpertWeights view(const std::byte* at) const {
    const int64_t ff = gate_.rows();
    const int64_t d = gate_.cols();
    const int64_t group = gate_.group_bytes();
    const auto packed = [&](int64_t rows, int64_t cols, const std::byte* data, int64_t stride) {
      return WeightView{gate_.type(), rows, cols, data, stride, Layout::kPacked};
    };
    return {packed(ff, d, at, 2 * group), packed(ff, d, at + group, 2 * group),
            packed(d, ff, at + 2 * ff / kGroupRows * group, 0)};
  }

  void call(int64_t tokens) {
    std::array<ExpertCall, kExperts> calls;
    for (size_t e = 0; e < kExperts; ++e) calls[e] = {view(ring_.next()), rows_of_[e]};
    expert_ffn(calls, x_.data(), tokens, gate_.cols(), y_.data(), hidden_.data(), pool_.workspace(),
               pool_);
  }

  // All experts have the same weights, so a token's output is one expert's times all of theirs.
  std::vector<float> hidden_of(int64_t token) const {
    const int64_t d = gate_.cols();
    const std::vector<float> x = testing::as_seen_by(gate_.type(), x_.data() + token * d, d);
    std::vector<float> hidden;
    for (int64_t r = 0; r < gate_.rows(); ++r) {
      const double gate = testing::reference_dot(gate_.row(r), x.data(), d).sum;
      const double up = testing::reference_dot(up_.row(r), x.data(), d).sum;
      hidden.push_back(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
    }
    std::vector<float> seen = testing::as_seen_by(down_.type(), hidden.data(), gate_.rows());
    float weights = 0;
    for (size_t e = 0; e < kExperts; ++e) weights += weight_of(e);
    for (float& v : seen) v *= weights;
    return seen;
  }

  std::string check(int64_t tokens) const {
    const int64_t d = gate_.cols();
    const int64_t last = tokens - 1;
    const std::vector<float> hidden = hidden_of(last);
    const std::vector<float> y(y_.begin() + last * d, y_.end());
    return compare(
        y, 1, d, gate_.rows(), [&](int64_t r) { return down_.row(r); },
        [&](int64_t) { return hidden.data(); }, kTolerance);
  }

  Matrix gate_;
  Matrix up_;
  Matrix down_;
  Ring ring_;
  std::vector<float> x_;  // [most tokens, d]
  std::vector<float> y_;  // [tokens, d]
  std::vector<float> hidden_;
  std::vector<ExpertRow> rows_;
  std::array<std::vector<ExpertRow>, kExperts> rows_of_;
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<Bench> ffn_bench(std::mt19937& rng, const std::string& type, int64_t ff, int64_t d,
                                 const Pools& pools, const Wanted& wanted) {
  return std::make_unique<FfnBench>(rng, type_named(type), ff, d, pools, wanted);
}

}  // namespace tandem::bench
