// A model's file as the simulator sees it.
#pragma once

#include "runtime/model/model.h"
#include "scheduler/model_shape.h"

namespace tandem {

// Bytes are the file's. What a shape says once for all layers is the mean over them.
ModelShape shape_of(const Model& model);

}  // namespace tandem
