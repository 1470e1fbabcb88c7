// A figure as repeats gave it.
#pragma once

#include <vector>

namespace tandem {

struct Spread {
  double median = 0;
  double low = 0;  // quartiles; of three repeats and fewer, the least and the most
  double high = 0;
  int n = 0;  // repeats
};

// values: at least one.
Spread spread_of(std::vector<double> values);

}  // namespace tandem
