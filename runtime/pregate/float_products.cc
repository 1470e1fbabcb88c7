#include "runtime/pregate/float_products.h"

#include <array>

#include "kernels/check.h"
#include "kernels/dense.h"

namespace tandem {

void FloatProducts::rows_by_rows(const Rows& a, const Rows& b, Rows* y) {
  TANDEM_CHECK(a.cols() == b.cols(), "%lld columns by %lld", static_cast<long long>(a.cols()),
               static_cast<long long>(b.cols()));
  y->resize(a.rows(), b.rows());
  const WeightView w{DType::kF32, b.rows(), b.cols(), reinterpret_cast<const std::byte*>(b.data())};
  matmul(std::array{MatmulPart{w, nullptr, y->data()}}, a.data(), a.rows(), scratch_, serial_for);
}

void FloatProducts::columns_by_columns(const Rows& a, const Rows& b, Rows* y) {
  a_ = a.transpose();
  b_ = b.transpose();
  rows_by_rows(a_, b_, y);
}

}  // namespace tandem
