// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) on the numbers of a decoupled
// router.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/pregate/decoupled_router.h"

namespace tandem {

// A router of this shape whose numbers are all zero.
DecoupledRouter zero_router(const DecoupledShape& shape);

class AdamW {
 public:
  // Both are of one shape, with all tensors, and outlive this.
  AdamW(DecoupledRouter* router, const DecoupledRouter& gradient);

  // Euclidean, over all numbers.
  double gradient_norm(ParallelFor parallel);

  // One step by the gradient times `scale`. weight_decay is of matrices: gains and biases have
  // none.
  void step(float scale, float learning_rate, float weight_decay, ParallelFor parallel);

 private:
  struct Piece {  // some numbers of one tensor
    float* value;
    const float* gradient;
    float* mean;    // running, of the gradient
    float* square;  // and of its square
    int64_t n;
    bool is_matrix;
  };

  DecoupledRouter means_, squares_;
  std::vector<Piece> pieces_;
  std::vector<double> sums_;  // one a piece, so that threads do not change the order of additions
  int64_t n_steps_ = 0;
};

}  // namespace tandem
