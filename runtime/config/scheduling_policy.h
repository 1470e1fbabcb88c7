// Scheduling policies by name or from a file: who leaves the cache, who plans, what is prefetched.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/scheduling_settings.h"

namespace tandem {

inline constexpr std::string_view kDefaultPolicy = "tandem";

// `name_or_path`: a built-in policy's name, or a file (anything with a '/' or ending in .toml).
// ConfigError naming file and key for what is missing, unknown or out of range.
SchedulingSettings load_scheduling_policy(const std::string& name_or_path);

// "shared", "per-layer" or "adapted", as policy files say it.
std::string_view pool_name(PoolShape pool);

// As above, from text. `file` stands in messages. configs/README.md describes the keys.
SchedulingSettings parse_scheduling_policy(std::string_view text, const std::string& name,
                                           const std::string& file);

}  // namespace tandem
