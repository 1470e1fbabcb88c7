#include "kernels/expert_ffn.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::as_seen_by;
using testing::IsaScope;
using testing::random_floats;
using testing::RandomWeights;
using testing::reference_dot;
using testing::same_bits;

struct Expert {
  RandomWeights gate;
  RandomWeights up;
  RandomWeights down;
  Expert(std::mt19937& rng, DType type, DType down_type, int64_t d, int64_t ff)
      : gate(rng, type, ff, d), up(rng, type, ff, d, 1), down(rng, down_type, d, ff) {}
  ExpertWeights weights() const { return {gate.view(), up.view(), down.view()}; }
};

// silu(gate x) * up x in float64, x as the kernel sees it.
std::vector<double> hidden_reference(const Expert& expert, const float* x) {
  const int64_t d = expert.gate.view().cols;
  const std::vector<float> gate = expert.gate.dequantized();
  const std::vector<float> up = expert.up.dequantized();
  const std::vector<float> x_gate = as_seen_by(expert.gate.view().type, x, d);
  const std::vector<float> x_up = as_seen_by(expert.up.view().type, x, d);
  std::vector<double> hidden;
  for (int64_t f = 0; f < expert.gate.view().rows; ++f) {
    const double g = reference_dot(gate.data() + f * d, x_gate.data(), d).sum;
    hidden.push_back(g / (1.0 + std::exp(-g)) *
                     reference_dot(up.data() + f * d, x_up.data(), d).sum);
  }
  return hidden;
}

// weight * down(hidden) in float64, hidden as the kernel sees it.
std::vector<double> output_reference(const Expert& expert, const float* hidden, double weight) {
  const int64_t ff = expert.down.view().cols;
  const std::vector<float> down = expert.down.dequantized();
  const std::vector<float> seen = as_seen_by(expert.down.view().type, hidden, ff);
  std::vector<double> out;
  for (int64_t r = 0; r < expert.down.view().rows; ++r) {
    out.push_back(weight * reference_dot(down.data() + r * ff, seen.data(), ff).sum);
  }
  return out;
}

struct Result {
  std::vector<float> y;
  std::vector<float> hidden;
};

Result run_all(const std::vector<ExpertCall>& calls, const std::vector<float>& x, int64_t d,
               std::vector<float> y, ParallelFor parallel) {
  std::vector<float> hidden(static_cast<size_t>(expert_ffn_hidden_floats(calls)));
  Workspace scratch;
  expert_ffn(calls, x.data(), static_cast<int64_t>(x.size()) / d, d, y.data(), hidden.data(),
             scratch, parallel);
  return {std::move(y), std::move(hidden)};
}

std::vector<float> run(const std::vector<ExpertCall>& calls, const std::vector<float>& x, int64_t d,
                       std::vector<float> y, ParallelFor parallel) {
  return run_all(calls, x, d, std::move(y), parallel).y;
}

double max_abs(const std::vector<double>& values) {
  double out = 0;
  for (const double v : values) out = std::max(out, std::abs(v));
  return out;
}

void check_close(const std::vector<float>& got, const std::vector<double>& expected) {
  const double limit = 1e-5 * max_abs(expected);
  for (size_t i = 0; i < got.size(); ++i) {
    INFO("element " << i);
    REQUIRE(std::abs(static_cast<double>(got[i]) - expected[i]) <= limit);
  }
}

// Four experts of which one has no rows, and six tokens; tokens 0 to 4 use one to three
// experts each with weights of their own, and token 5 none.
struct Layer {
  int64_t d;
  std::vector<float> x;
  std::vector<float> y;
  std::vector<Expert> experts;
  std::vector<std::vector<ExpertRow>> rows = {{{0, 0.7F}, {1, 0.2F}, {3, 0.5F}},
                                              {},
                                              {{4, 0.9F}, {0, 0.3F}, {2, 0.1F}, {1, 0.8F}},
                                              {{0, -0.4F}, {4, 0.6F}}};

  Layer(DType type, DType down_type, int64_t d_model, int64_t ff) : d(d_model) {
    std::mt19937 rng(31);
    x = random_floats(rng, 6 * d);
    y = random_floats(rng, 6 * d);
    for (size_t e = 0; e < rows.size(); ++e) experts.emplace_back(rng, type, down_type, d, ff);
  }

  std::vector<ExpertCall> calls() const {
    std::vector<ExpertCall> out;
    for (size_t e = 0; e < rows.size(); ++e) out.push_back({experts[e].weights(), rows[e]});
    return out;
  }

  // Holds hidden values against float64, and what comes out against float64 on these.
  void check(const std::vector<ExpertCall>& in_order, const Result& result) const {
    std::vector<double> out(y.begin(), y.end());
    const float* hidden = result.hidden.data();
    for (const ExpertCall& call : in_order) {
      const auto e =
          static_cast<size_t>(std::find_if(experts.begin(), experts.end(),
                                           [&](const Expert& one) {
                                             return one.gate.view().data == call.weights.gate.data;
                                           }) -
                              experts.begin());
      for (const ExpertRow& use : call.rows) {
        const std::vector<double> want = hidden_reference(experts[e], x.data() + use.row * d);
        check_close({hidden, hidden + want.size()}, want);
        const auto term = output_reference(experts[e], hidden, static_cast<double>(use.weight));
        for (size_t c = 0; c < term.size(); ++c) {
          out[static_cast<size_t>(use.row * d) + c] += term[c];
        }
        hidden += want.size();
      }
    }
    check_close(result.y, out);
  }
};

TEST_CASE("expert_ffn matches float64 with several experts on a token") {
  struct Case {
    DType type;
    DType down_type;
    int64_t d;
    int64_t ff;
  };
  const Case cases[] = {
      {DType::kF32, DType::kF32, 37, 45},     {DType::kQ8_0, DType::kQ8_0, 64, 96},
      {DType::kQ4_K, DType::kQ6_K, 256, 256}, {DType::kQ5_K, DType::kQ5_0, 256, 32},
      {DType::kF16, DType::kBF16, 33, 31},    {DType::kQ4_0, DType::kF16, 32, 70}};
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const Case& c : cases) {
      INFO(ops->name << " " << dtype_info(c.type).name << " d " << c.d << " ff " << c.ff);
      const Layer layer(c.type, c.down_type, c.d, c.ff);
      const std::vector<ExpertCall> calls = layer.calls();
      layer.check(calls, run_all(calls, layer.x, c.d, layer.y, serial_for));
    }
  }
}

TEST_CASE("an expert of every format with many rows matches float64, packed or not") {
  constexpr int64_t kRowsOfX = 40;
  constexpr int64_t kD = 256;
  constexpr int64_t kFf = 512;
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : testing::kAllTypes) {
      std::mt19937 rng(77);
      const Expert expert(rng, type, type, kD, kFf);
      const std::vector<float> x = random_floats(rng, kRowsOfX * kD, 0.05F);
      std::vector<ExpertRow> rows;
      for (int32_t i = 0; i < kRowsOfX; ++i)
        rows.push_back({(i * 7) % 40, 0.25F + 0.01F * static_cast<float>(i)});
      const testing::Packed gate(expert.gate.view());
      const testing::Packed up(expert.up.view());
      const testing::Packed down(expert.down.view());
      const ExpertWeights packed{gate.view(), up.view(), down.view()};
      for (const ExpertWeights& weights : {expert.weights(), packed}) {
        INFO(ops->name << " " << dtype_info(type).name
                       << (weights.gate.layout == Layout::kPacked ? ", packed" : ""));
        const Result result =
            run_all({{weights, rows}}, x, kD, std::vector<float>(x.size()), serial_for);
        for (int64_t i = 0; i < kRowsOfX; ++i) {
          const ExpertRow& row = rows[static_cast<size_t>(i)];
          const float* hidden = result.hidden.data() + i * kFf;
          INFO("row " << row.row);
          check_close({hidden, hidden + kFf}, hidden_reference(expert, x.data() + row.row * kD));
          const float* y = result.y.data() + row.row * kD;
          check_close({y, y + kD}, output_reference(expert, hidden, row.weight));
        }
      }
    }
  }
}

TEST_CASE("the order of experts parts no row from its weight") {
  const Layer layer(DType::kQ8_0, DType::kQ8_0, 64, 64);
  std::vector<ExpertCall> calls = layer.calls();
  std::reverse(calls.begin(), calls.end());
  layer.check(calls, run_all(calls, layer.x, 64, layer.y, serial_for));
}

TEST_CASE("expert_ffn has the same bits on any threads") {
  const Layer layer(DType::kQ4_K, DType::kQ6_K, 256, 256);
  const auto calls = layer.calls();
  const std::vector<float> serial = run(calls, layer.x, 256, layer.y, serial_for);
  CHECK(same_bits(serial, run(calls, layer.x, 256, layer.y, testing::reverse_for)));
  CHECK(same_bits(serial, run(calls, layer.x, 256, layer.y, testing::threads_for)));
}

TEST_CASE("a token's expert output has the same bits alone and among many rows") {
  std::mt19937 rng(32);
  const int64_t n = 200;  // more than one token tile
  const Expert expert(rng, DType::kQ8_0, DType::kQ8_0, 64, 64);
  const std::vector<float> x = random_floats(rng, n * 64);
  std::vector<ExpertRow> rows;
  rows.reserve(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) rows.push_back({static_cast<int32_t>(n) - 1 - i, 0.25F});
  const std::vector<float> zero(x.size());
  const std::vector<float> whole = run({{expert.weights(), rows}}, x, 64, zero, serial_for);
  std::vector<float> alone = zero;
  for (const ExpertRow& row : rows) {
    alone = run({{expert.weights(), std::span(&row, 1)}}, x, 64, alone, serial_for);
  }
  CHECK(same_bits(whole, alone));
}

TEST_CASE("parts of an expert add up to the whole, wherever it is cut between blocks") {
  struct Case {
    DType type, down_type;
    int64_t d, ff, block;
  };
  for (const Case& c :
       {Case{DType::kF32, DType::kF32, 24, 20, 1}, Case{DType::kQ8_0, DType::kQ8_0, 64, 160, 32},
        Case{DType::kQ4_K, DType::kQ6_K, 256, 768, 256},
        Case{DType::kBF16, DType::kQ4_0, 33, 96, 32}}) {
    for (const SimdOps* ops : all_isas()) {
      const IsaScope isa(ops);
      INFO(ops->name << " " << dtype_info(c.down_type).name);
      std::mt19937 rng(33);
      const Expert expert(rng, c.type, c.down_type, c.d, c.ff);
      const std::vector<float> x = random_floats(rng, 3 * c.d);
      const std::vector<ExpertRow> rows{{0, 1.0F}, {2, 1.0F}};
      for (int64_t cut = 0; cut <= c.ff; cut += c.block) {
        std::vector<float> y(x.size());
        std::vector<std::vector<float>> hidden(rows.size());
        for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, {cut, c.ff}}) {
          const Result part =
              run_all({{expert_part(expert.weights(), begin, end), rows}}, x, c.d, y, serial_for);
          y = part.y;
          for (size_t i = 0; i < rows.size(); ++i) {
            const auto from = part.hidden.begin() + static_cast<int64_t>(i) * (end - begin);
            hidden[i].insert(hidden[i].end(), from, from + (end - begin));
          }
        }
        for (size_t n = 0; n < rows.size(); ++n) {
          const ExpertRow& row = rows[n];
          check_close(hidden[n], hidden_reference(expert, x.data() + row.row * c.d));
          const std::vector<double> want = output_reference(expert, hidden[n].data(), 1.0);
          for (size_t i = 0; i < want.size(); ++i) {
            const double got = y[static_cast<size_t>(row.row * c.d) + i];
            CHECK(std::abs(got - want[i]) <= 1e-5 * max_abs(want));
          }
        }
      }
    }
  }
}

TEST_CASE("experts of different widths in one call give what each gives alone") {
  const Layer layer(DType::kQ8_0, DType::kQ8_0, 64, 224);
  std::vector<ExpertCall> calls = layer.calls();
  calls[0].weights = expert_part(calls[0].weights, 192, 224);
  calls[3].weights = expert_part(calls[3].weights, 0, 96);
  std::vector<float> y = layer.y;
  std::vector<float> hidden;
  for (const ExpertCall& call : calls) {
    const Result alone = run_all({call}, layer.x, 64, y, serial_for);
    y = alone.y;
    hidden.insert(hidden.end(), alone.hidden.begin(), alone.hidden.end());
  }
  const Result together = run_all(calls, layer.x, 64, layer.y, testing::threads_for);
  CHECK(same_bits(together.y, y));
  CHECK(same_bits(together.hidden, hidden));
}

TEST_CASE("an expert cannot be cut within a block or past its end") {
  std::mt19937 rng(34);
  const Expert expert(rng, DType::kF32, DType::kQ8_0, 32, 64);
  CHECK(test::dies([&] { expert_part(expert.weights(), 0, 16); }));
  CHECK(test::dies([&] { expert_part(expert.weights(), 32, 96); }));
}

TEST_CASE("without calls or rows y stays as it was") {
  const Layer layer(DType::kQ8_0, DType::kQ8_0, 64, 64);
  CHECK(same_bits(run({}, layer.x, 64, layer.y, serial_for), layer.y));
  const std::vector<ExpertCall> empty = {{layer.experts[0].weights(), {}}};
  CHECK(same_bits(run(empty, layer.x, 64, layer.y, serial_for), layer.y));
}

}  // namespace
}  // namespace tandem
