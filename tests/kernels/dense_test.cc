#include "kernels/dense.h"

#include <cmath>
#include <string>
#include <vector>

#include "kernels/simd.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::as_seen_by;
using testing::Dot;
using testing::IsaScope;
using testing::kAllTypes;
using testing::random_floats;
using testing::RandomWeights;
using testing::reference_dot;
using testing::same_bits;

// At most 64 + 3 additions in a lane of a chunk and one per chunk: below 70 roundings of 2^-24
// each of the sum of magnitudes, for every width used here.
constexpr double kTolerance = 70.0 / (1 << 24);

void matmul_one(const WeightView& w, const float* bias, const float* x, int64_t n, float* y,
                ParallelFor parallel) {
  Workspace scratch;
  const MatmulPart part{w, bias, y};
  matmul({&part, 1}, x, n, scratch, parallel);
}

// Tokens and results begin a number past what is aligned. Behind y, `pad` numbers must stay as they
// are.
void check_matmul(const WeightView& w, const std::vector<float>& weights, const float* bias,
                  int64_t n, int64_t pad, std::mt19937& rng) {
  const std::vector<float> x = random_floats(rng, n * w.cols + 1);
  std::vector<float> y(static_cast<size_t>(n * w.rows + pad + 1), -7.0F);
  matmul_one(w, bias, x.data() + 1, n, y.data() + 1, serial_for);
  for (int64_t t = 0; t < n; ++t) {
    const float* row = y.data() + 1 + t * w.rows;
    const std::vector<float> seen = as_seen_by(w.type, x.data() + 1 + t * w.cols, w.cols);
    for (int64_t r = 0; r < w.rows; ++r) {
      const Dot dot = reference_dot(weights.data() + r * w.cols, seen.data(), w.cols);
      const double b = bias != nullptr ? static_cast<double>(bias[r]) : 0.0;
      const double limit = kTolerance * (dot.magnitude + std::abs(b));
      INFO("token " << t << " row " << r);
      REQUIRE(std::abs(row[r] - (dot.sum + b)) <= limit);
    }
  }
  REQUIRE(y.front() == -7.0F);
  for (int64_t i = n * w.rows + 1; i <= n * w.rows + pad; ++i)
    REQUIRE(y[static_cast<size_t>(i)] == -7.0F);
}

TEST_CASE("a product with weights of every format matches float64") {
  std::mt19937 rng(1);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const int block = dtype_info(type).block_elems;
      const std::vector<int64_t> widths = block == 1 ? std::vector<int64_t>{1, 3, 31, 519}
                                                     : std::vector<int64_t>{block, 3 * block, 768};
      for (const int64_t cols : widths) {
        for (const int64_t rows : {1, 2, 31, 33, 67}) {
          const int misalign = static_cast<int>(rows % 2);
          const RandomWeights w(rng, type, rows, cols, misalign);
          const std::vector<float> weights = w.dequantized();
          const std::vector<float> bias = random_floats(rng, rows);
          for (const int64_t n : {1, 2, 3, 4, 5, 7, 9}) {
            INFO(ops->name << " " << dtype_info(type).name << " [" << rows << ", " << cols << "] n "
                           << n);
            check_matmul(w.view(), weights, n % 2 == 0 ? bias.data() : nullptr, n, 8, rng);
          }
        }
      }
    }
  }
}

TEST_CASE("odd numbers of rows, columns and many tokens match float64, packed or not") {
  std::mt19937 rng(7);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const int block = dtype_info(type).block_elems;
      const int64_t cols = block == 1 ? 519 : 3 * block;
      const RandomWeights odd(rng, type, 83, cols, 1);
      const RandomWeights even(rng, type, 80, block == 1 ? 520 : cols, 1);
      const testing::Packed packed(even.view());
      for (const int64_t n : {17, 31, 65, 130}) {
        INFO(ops->name << " " << dtype_info(type).name << " n " << n);
        check_matmul(odd.view(), odd.dequantized(), nullptr, n, 8, rng);
        check_matmul(packed.view(), even.dequantized(), nullptr, n, 8, rng);
      }
    }
  }
}

TEST_CASE("a token's product has the same bits in every batch split and on any threads") {
  std::mt19937 rng(2);
  const int64_t n = 150;  // more than one token tile
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const int64_t cols = dtype_info(type).block_elems == 1 ? 1029 : 768;
      const int64_t rows = 70;
      const RandomWeights w(rng, type, rows, cols, 1);
      const std::vector<float> x = random_floats(rng, n * cols);
      const auto run = [&](int64_t batch, ParallelFor parallel) {
        std::vector<float> y(static_cast<size_t>(n * rows));
        for (int64_t t = 0; t < n; t += batch) {
          matmul_one(w.view(), nullptr, x.data() + t * cols, std::min(batch, n - t),
                     y.data() + t * rows, parallel);
        }
        return y;
      };
      const std::vector<float> whole = run(n, serial_for);
      INFO(ops->name << " " << dtype_info(type).name);
      for (const int64_t batch : {1, 2, 3, 4, 5, 7, 11, 17, 33, 64}) {
        INFO("batch " << batch);
        CHECK(same_bits(whole, run(batch, serial_for)));
      }
      CHECK(same_bits(whole, run(n, testing::reverse_for)));
      CHECK(same_bits(whole, run(n, testing::threads_for)));
      CHECK(same_bits(whole, run(7, testing::threads_for)));
    }
  }
}

TEST_CASE("denormal bf16 weights are the same with one token and with several") {
  constexpr int64_t kRows = 16;
  constexpr int64_t kCols = 64;
  const std::vector<uint16_t> bits(kRows * kCols, 0x0040);  // 2^-127
  const WeightView w{DType::kBF16, kRows, kCols, reinterpret_cast<const std::byte*>(bits.data())};
  const std::vector<float> x(2 * kCols, 0x1p120F);
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    INFO(ops->name);
    std::vector<float> both(2 * kRows);
    std::vector<float> one(kRows);
    matmul_one(w, nullptr, x.data(), 2, both.data(), serial_for);
    matmul_one(w, nullptr, x.data(), 1, one.data(), serial_for);
    CHECK(same_bits(one, {both.begin(), both.begin() + kRows}));
  }
}

TEST_CASE("products that share their tokens have the bits of each alone, whatever their formats") {
  std::mt19937 rng(6);
  const int64_t cols = 512;
  const int64_t n = 3;
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    const std::vector<float> x = random_floats(rng, n * cols);
    std::vector<RandomWeights> weights;
    std::vector<std::vector<float>> together;
    int64_t rows = 5;
    for (const DType type : kAllTypes) {
      weights.emplace_back(rng, type, rows, cols);
      together.emplace_back(static_cast<size_t>(n * rows));
      rows += 61;
    }
    const std::vector<float> bias = random_floats(rng, rows);
    std::vector<MatmulPart> parts;
    for (size_t i = 0; i < weights.size(); ++i) {
      parts.push_back({weights[i].view(), i % 2 == 0 ? bias.data() : nullptr, together[i].data()});
    }
    for (const ParallelFor parallel :
         {ParallelFor(serial_for), ParallelFor(testing::threads_for)}) {
      Workspace scratch;
      for (std::vector<float>& y : together) std::fill(y.begin(), y.end(), -7.0F);
      matmul(parts, x.data(), n, scratch, parallel);
      for (size_t i = 0; i < weights.size(); ++i) {
        std::vector<float> alone(together[i].size());
        matmul_one(parts[i].w, parts[i].bias, x.data(), n, alone.data(), serial_for);
        INFO(ops->name << " " << dtype_info(parts[i].w.type).name);
        CHECK(same_bits(together[i], alone));
      }
    }
  }
}

TEST_CASE("a row's product has the same bits whichever rows stand around it") {
  std::mt19937 rng(3);
  const int64_t cols = 768;
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const DType type : kAllTypes) {
      const RandomWeights w(rng, type, 39, cols);
      const std::vector<float> x = random_floats(rng, 3 * cols);
      for (const int64_t n : {1, 3}) {
        std::vector<float> whole(static_cast<size_t>(n * 39));
        matmul_one(w.view(), nullptr, x.data(), n, whole.data(), serial_for);
        for (int64_t r = 0; r < 39; ++r) {
          WeightView row = w.view();
          row.data += r * row.row_bytes();
          row.rows = 1;
          std::vector<float> y(static_cast<size_t>(n));
          matmul_one(row, nullptr, x.data(), n, y.data(), serial_for);
          for (int64_t t = 0; t < n; ++t) {
            INFO(ops->name << " " << dtype_info(type).name << " row " << r);
            REQUIRE(y[static_cast<size_t>(t)] == whole[static_cast<size_t>(t * 39 + r)]);
          }
        }
      }
    }
  }
}

TEST_CASE("an embedding is the dequantised row of its id") {
  std::mt19937 rng(4);
  for (const DType type : kAllTypes) {
    const int64_t cols = 2 * dtype_info(type).block_elems;
    const RandomWeights w(rng, type, 11, cols, 1);
    const std::vector<float> weights = w.dequantized();
    const std::vector<int32_t> ids = {10, 0, 3, 3};
    std::vector<float> y(ids.size() * static_cast<size_t>(cols));
    embed(w.view(), ids, y.data());
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t c = 0; c < cols; ++c) {
        REQUIRE(y[i * static_cast<size_t>(cols) + static_cast<size_t>(c)] ==
                weights[static_cast<size_t>(ids[i] * cols + c)]);
      }
    }
  }
}

// CTest runs this case with TANDEM_ISA set as well (see CMakeLists.txt).
TEST_CASE("the instruction set is the one that the environment asks for") {
  const char* forced = std::getenv("TANDEM_ISA");
  const std::string expected =
      forced != nullptr && *forced != '\0' ? forced : all_isas().back()->name;
  CHECK(simd().name == expected);
}

}  // namespace
}  // namespace tandem
