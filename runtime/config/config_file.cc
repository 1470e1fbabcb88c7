#include "runtime/config/config_file.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "runtime/error.h"

namespace tandem {

std::string read_config_file(const std::string& name) {
  // Looked at before it is read: reading a folder throws, and a device may never end.
  const std::filesystem::path path(name);
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    throw FileError(name, "is not a file");
  }
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) throw FileError(name, "cannot be read");
  return text;
}

ConfigFile find_config_file(const std::string& name_or_path, const ConfigKind& kind) {
  std::string known;
  for (const EmbeddedFile& file : kind.built_in) {
    if (file.name == name_or_path) {
      return {name_or_path, fmt::format("{}/{}.toml", kind.folder, name_or_path),
              std::string(file.text)};
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", file.name);
  }
  const std::filesystem::path path(name_or_path);
  if (name_or_path.find('/') == std::string::npos && path.extension() != ".toml") {
    throw ConfigError(fmt::format("{} \"{}\" is not built in; expected {}, or a file", kind.what,
                                  name_or_path, known));
  }
  return {path.stem().string(), name_or_path, read_config_file(name_or_path)};
}

}  // namespace tandem
