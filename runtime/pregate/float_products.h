// Products of float matrices by the kernels, which know the CPU's instruction set; Eigen, compiled
// for all of them, knows the oldest. One thread; for one product at a time.
#pragma once

#include <Eigen/Core>

#include "kernels/workspace.h"

namespace tandem {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class FloatProducts {
 public:
  // y = a b^T. a: [n, k], b: [m, k], y: [n, m].
  void rows_by_rows(const Rows& a, const Rows& b, Rows* y);
  // y = a^T b. a: [k, n], b: [k, m], y: [n, m].
  void columns_by_columns(const Rows& a, const Rows& b, Rows* y);

 private:
  Workspace scratch_;
  Rows a_, b_;  // transposed
};

}  // namespace tandem
