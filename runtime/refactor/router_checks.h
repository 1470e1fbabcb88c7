// What train_decoupled_router() refuses.
#pragma once

#include <span>

#include "runtime/refactor/router_training.h"

namespace tandem {

// ConfigError; router_training.h says for what.
void check_router_training(std::span<const RoutedText> training,
                           std::span<const RoutedText> validation, const DecoupledShape& shape,
                           const RouterTrainingSettings& settings);

}  // namespace tandem
