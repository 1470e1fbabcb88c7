// A model's file as the simulator sees it.
#pragma once

#include <algorithm>

#include "runtime/model/model.h"
#include "scheduler/model_shape.h"

namespace tandem {

// Where a model's experts can be cut along their intermediate dimension: between blocks of down,
// and between groups of 16 rows of gate and up, so that packed weights can be cut there, too.
class ExpertCuts {
 public:
  explicit ExpertCuts(const Model& model);
  // Parts that can run apart, of nearly equal size, the same number in every layer.
  int32_t pieces() const { return pieces_; }
  // Intermediate values of the leading `piece` of `pieces` parts.
  int64_t at(int32_t piece, int32_t pieces) const {
    return std::min(blocks_ * piece / pieces * block_, ff_);
  }

 private:
  int64_t ff_;
  int64_t block_ = kGroupRows;  // the coarsest of all layers
  int64_t blocks_;              // the last one may be shorter
  int32_t pieces_ = 1;
};

// Bytes are the file's. What a shape says once for all layers is the mean over them.
ModelShape shape_of(const Model& model);

}  // namespace tandem
