#include <algorithm>
#include <cmath>
#include <numeric>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/expert_ffn.h"
#include "kernels/packed.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

// The rounding of a hidden value may fall to the other side than float64's.
constexpr double kTolerance = 2e-3;

float weight_of(size_t expert) { return 0.1F + 0.01F * static_cast<float>(expert); }

class FfnBench : public Bench {
 public:
  FfnBench(std::mt19937& rng, DType type, const Experts& experts, const Pools& pools,
           const Wanted& wanted)
      : experts_(experts),
        gate_(rng, type, experts.ff, experts.d),
        up_(rng, type, experts.ff, experts.d),
        down_(rng, type, experts.d, experts.ff),
        ring_(expert(), wanted.ring_bytes),
        x_(testing::random_floats(rng, wanted.most_tokens * experts.d)),
        pool_(*pools.back()) {
    const float largest = largest_gate();
    for (float& v : x_) v /= largest;
  }

  std::vector<Case> cases(int64_t tokens) override {
    const auto [kernel, n_experts, top_k, ff, d] = experts_;
    const DType type = gate_.type();
    route(tokens);
    y_.assign(static_cast<size_t>(tokens * d), 0.0F);
    hidden_.resize(static_cast<size_t>(tokens * top_k * ff));
    Case c{kernel, dtype_info(type).name, ff, d, tokens, &pool_};
    c.weight_bytes = static_cast<int64_t>(calls_.size()) * 3 * dtype_bytes(type, ff * d);
    c.ops = tokens * top_k * 3 * 2 * ff * d;
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
  // Each token draws its experts, all as likely.
  void route(int64_t tokens) {
    rows_of_.assign(static_cast<size_t>(experts_.n), {});
    std::vector<size_t> order(rows_of_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::mt19937 rng(2);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(order.begin(), order.end(), rng);
      for (int64_t i = 0; i < experts_.top_k; ++i) {
        const size_t expert = order[static_cast<size_t>(i)];
        rows_of_[expert].push_back({static_cast<int32_t>(t), weight_of(expert)});
      }
    }
    calls_.clear();
    for (const std::vector<ExpertRow>& rows : rows_of_) {
      if (!rows.empty()) calls_.push_back({{}, rows});
    }
  }

  // Tokens are divided by it, so that gates are as large as those of models: SwiGLU makes denormals
  // of gates below -87, which take a hundred cycles each.
  float largest_gate() const {
    double most = 0;
    for (int64_t r = 0; r < kGroupRows; ++r) {
      const double gate = testing::reference_dot(gate_.row(r), x_.data(), gate_.cols()).sum;
      most = std::max(most, std::abs(gate));
    }
    return static_cast<float>(most);
  }

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
    for (ExpertCall& call : calls_) call.weights = view(ring_.next());
    expert_ffn(calls_, x_.data(), tokens, gate_.cols(), y_.data(), hidden_.data(),
               pool_.workspace(), pool_);
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
    for (const ExpertCall& call : calls_) {
      for (const ExpertRow& row : call.rows) weights += row.row == token ? row.weight : 0;
    }
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

  Experts experts_;
  Matrix gate_;
  Matrix up_;
  Matrix down_;
  Ring ring_;
  std::vector<float> x_;  // [most tokens, d]
  std::vector<float> y_;  // [tokens, d]
  std::vector<float> hidden_;
  std::vector<std::vector<ExpertRow>> rows_of_;  // [experts]
  std::vector<ExpertCall> calls_;                // of those that have rows
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<Bench> ffn_bench(std::mt19937& rng, const std::string& type, const Experts& experts,
                                 const Pools& pools, const Wanted& wanted) {
  return std::make_unique<FfnBench>(rng, type_named(type), experts, pools, wanted);
}

}  // namespace tandem::bench
