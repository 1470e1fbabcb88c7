// Model shapes for the simulator, by name or from a file of architecture numbers.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/model_shape.h"

namespace tandem {

// `name_or_path`: a built-in shape's name, or a file (anything with a '/' or ending in .toml).
// ConfigError naming file and key for what is missing, unknown or out of range.
ModelShape load_model_shape(const std::string& name_or_path);

// As above, from text. `file` stands in messages. configs/README.md describes the keys.
ModelShape parse_model_shape(std::string_view text, const std::string& name,
                             const std::string& file);

}  // namespace tandem
