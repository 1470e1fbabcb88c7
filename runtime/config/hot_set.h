// Hot sets as files: TOML, described in configs/README.md.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/hot_set.h"

namespace tandem {

// Largest file that is read, in bytes.
inline constexpr size_t kMostHotSetBytes = size_t{64} << 20;

// FileError for a file that cannot be read or is too large, ConfigError naming file and key for
// what is missing, unknown, out of range or there twice.
HotSet load_hot_set(const std::string& path);
// As above, from any bytes. `file` stands in messages.
HotSet parse_hot_set(std::string_view text, const std::string& file);

// The model that a hot set is to be used with.
struct HotSetModel {
  std::string_view name;
  std::string_view router_hash;  // empty where it is not known
  int32_t n_layers = 0;
  int32_t n_experts = 0;
};
// ConfigError unless the hot set is of this model: the same numbers of layers and experts, and the
// same router hash, or where one of the hashes is not known, the same name.
void check_hot_set(const HotSet& hot, const HotSetModel& model, const std::string& file);

// The file that parse_hot_set() reads back to the same.
std::string hot_set_text(const HotSet& hot);

}  // namespace tandem
