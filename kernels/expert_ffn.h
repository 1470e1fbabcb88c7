// The routed experts of one layer: y += weight * down(silu(gate(x)) * up(x)), grouped by expert.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/parallel.h"
#include "kernels/tensor.h"
#include "kernels/workspace.h"

namespace tandem {

struct ExpertWeights {
  WeightView gate;  // [ff, d]
  WeightView up;    // [ff, d]
  WeightView down;  // [d, ff]
  int64_t bytes() const { return gate.bytes() + up.bytes() + down.bytes(); }
};

// The part of an expert that computes the intermediate values [begin, end): those rows of gate and
// up and those columns of down. The outputs of parts add up to the expert's. CHECKs that the cuts
// fall between blocks, and between groups of rows where the weights are packed.
ExpertWeights expert_part(const ExpertWeights& whole, int64_t begin, int64_t end);

// One token's use of one expert. The weight travels with the row, so that no re-ordering of
// experts can part the two.
struct ExpertRow {
  int32_t row;   // of x and y
  float weight;  // the router's, applied to the expert's output
};

// An expert and the tokens that chose it.
struct ExpertCall {
  ExpertWeights weights;
  std::span<const ExpertRow> rows;
};

// For each call, for each of its rows: y[row] += weight * FFN(x[row]). All calls have experts of
// one layer, or parts of them: the same types.
// x, y: [n, d] f32; hidden: scratch of expert_ffn_hidden_floats(calls) floats, which afterwards
// holds silu(gate(x)) * up(x): [rows of the call, its ff], call by call.
// x and hidden are rounded as x_kind() of the weights says. Additions into a row of y happen in the
// order of `calls`. Two parallel regions, four with many rows.
int64_t expert_ffn_hidden_floats(std::span<const ExpertCall> calls);
void expert_ffn(std::span<const ExpertCall> calls, const float* x, int64_t n, int64_t d, float* y,
                float* hidden, Workspace& scratch, ParallelFor parallel);

}  // namespace tandem
