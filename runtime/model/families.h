// The model families that Tandem runs. A new one is a row in the table of families.cc and, where
// the row's fields cannot say it, a small `adjust` function.
#pragma once

#include <span>
#include <string_view>

#include "runtime/model/model_config.h"

namespace tandem {

struct Family {
  std::string_view arch;  // general.architecture
  std::string_view what;  // shown to people
  RopeStyle rope;
  QkNorm qk_norm;
  bool normalize_weights;  // of the chosen experts, unless the file says otherwise
  void (*adjust)(const GgufFile& file, ModelConfig* config);  // nullptr: nothing to adjust
};

std::span<const Family> families();
const Family* find_family(std::string_view arch);

}  // namespace tandem
