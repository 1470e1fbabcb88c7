// Machine profiles by name or from a file.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/machine_profile.h"

namespace tandem {

inline constexpr std::string_view kDefaultMachine = "rtx3060-ddr4";

// `name_or_path`: a built-in profile's name, or a file (anything with a '/' or ending in .toml).
// ConfigError naming file and key for what is missing, unknown or out of range.
MachineProfile load_machine_profile(const std::string& name_or_path);

// As above, from text. `file` stands in messages.
MachineProfile parse_machine_profile(std::string_view text, const std::string& name,
                                     const std::string& file);

}  // namespace tandem
