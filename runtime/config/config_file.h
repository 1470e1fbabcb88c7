// The text behind a name or a path: what is built in under that name, or a file's content.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "runtime/config/embedded.h"

namespace tandem {

struct ConfigFile {
  std::string name;  // without folder and ending
  std::string file;  // what messages call it
  std::string text;
};

// What one sort of configuration is called, and what of it is built in.
struct ConfigKind {
  std::string_view what;    // "machine profile"
  std::string_view folder;  // "configs/machines"
  std::span<const EmbeddedFile> built_in;
};

// A path is anything with a '/' or ending in .toml. ConfigError with the known names for a name
// that is not built in, FileError for a file that cannot be read.
ConfigFile find_config_file(const std::string& name_or_path, const ConfigKind& kind);

// The whole text of a file; FileError where it is no file or cannot be read.
std::string read_config_file(const std::string& path);

}  // namespace tandem
