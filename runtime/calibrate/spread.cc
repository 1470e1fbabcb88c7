#include "runtime/calibrate/spread.h"

#include <algorithm>

#include "kernels/check.h"

namespace tandem {

Spread spread_of(std::vector<double> values) {
  TANDEM_CHECK(!values.empty(), "nothing was measured");
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {values[n / 2], values[n / 4], values[n - 1 - n / 4], static_cast<int>(n)};
}

}  // namespace tandem
