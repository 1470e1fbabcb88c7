#include "runtime/pregate/float_products.h"

#include <array>
#include <random>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Rows random_rows(int64_t n, int64_t m, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  Rows rows(n, m);
  for (float& f : rows.reshaped<Eigen::RowMajor>()) f = normal(rng);
  return rows;
}

// The largest error beside what rounding of k products may leave.
double error_of(const Rows& y, const Eigen::MatrixXd& exact, int64_t k) {
  REQUIRE(y.rows() == exact.rows());
  REQUIRE(y.cols() == exact.cols());
  return (y.cast<double>() - exact).cwiseAbs().maxCoeff() / (1e-6 * static_cast<double>(k + 1));
}

}  // namespace

TEST_CASE("float products of odd shapes are those of float64") {
  FloatProducts products;
  Rows y;
  for (const auto& [n, m, k] : {std::array{1, 1, 1}, std::array{3, 17, 5}, std::array{33, 2, 100},
                                std::array{130, 40, 257}, std::array{2, 3, 2048}}) {
    INFO(n << " x " << m << ", sums of " << k);
    const Rows a = random_rows(n, k, 1);
    const Rows b = random_rows(m, k, 2);
    products.rows_by_rows(a, b, &y);
    CHECK(error_of(y, a.cast<double>() * b.cast<double>().transpose(), k) < 1);
    const Rows at = a.transpose();
    const Rows bt = b.transpose();
    products.columns_by_columns(at, bt, &y);
    CHECK(error_of(y, a.cast<double>() * b.cast<double>().transpose(), k) < 1);
  }
}

}  // namespace tandem::test
