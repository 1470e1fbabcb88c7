// Gate reuse: the router of a later layer on what an earlier layer's router sees. The cheapest
// guess of who will be used, and what fitted ones correct.
#pragma once

#include <vector>

#include "runtime/model/model.h"

namespace tandem {

// [n_experts, d], row by row: target.router, whose columns are scaled by the quotient of the two
// layers' gains, since the input has the source's. A column is 0 where the source has hardly any
// gain. Values that are not finite stay so.
std::vector<float> reused_gate(const LayerWeights& source, const LayerWeights& target);

}  // namespace tandem
