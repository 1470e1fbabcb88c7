// A model's first layer up to its gate in float64, from the model's own tensors: written from the
// formulas, shares nothing with the engine but the reading of blocks.
#pragma once

#include <vector>

#include "runtime/model/model.h"

namespace tandem::test {

using Row = std::vector<double>;
using Rows = std::vector<Row>;  // [n][…]

// w x
Row times(const WeightView& w, const Row& x);
// RMSNorm of x[first …] of the gain's length, in place.
void normalise(const Vector& gain, double epsilon, size_t first, Row* x);
// What the first layer's gate sees before its norm, of a qwen3moe model. [n_tokens, d]
Rows first_residual(const Model& model, const std::vector<int32_t>& tokens);

}  // namespace tandem::test
