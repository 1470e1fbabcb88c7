// The exact placement of a layer whose experts all have the same number of tokens, as in decoding
// one token: only numbers of pieces matter, and a handful of them is worth looking at.
#pragma once

#include "scheduler/layer_problem.h"

namespace tandem {

// False, and nothing done, when loads differ or more than UniformLayer::kMostOdd experts are partly
// there or on their way.
bool place_uniform(LayerProblem* problem);

}  // namespace tandem
