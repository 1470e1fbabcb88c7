// What a token of a long prompt takes, for choosing how many are read at once. Modelled.
#pragma once

#include <cstdint>

#include "scheduler/cost_model.h"
#include "scheduler/model_shape.h"

namespace tandem {

// What the GPU holds of a layer's experts, and how many more may be fetched.
struct PromptRoom {
  double share = 0;  // of all experts, in VRAM; the same in each layer
  int32_t fetches = 0;
};

// Microseconds of a token in a step of n: a layer's dense parts on the GPU, then its experts,
// placed by place_exact on both sides. Routing is spread evenly over the experts that n tokens are
// expected to use; a real prompt's is less even. Attention to earlier positions, which no n
// changes, is left out.
double prompt_token_us(const ModelShape& shape, const CostModel& costs, const PromptRoom& room,
                       int64_t n);

}  // namespace tandem
