// How messages and reports say sizes and lists.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// "1.23 GiB"
inline std::string bytes_text(int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes < 1 << 10) return fmt::format("{} B", bytes);
  if (bytes < 1 << 20) return fmt::format("{:.2f} KiB", b / (1 << 10));
  if (bytes < 1 << 30) return fmt::format("{:.2f} MiB", b / (1 << 20));
  return fmt::format("{:.2f} GiB", b / (1 << 30));
}

// "a, b, c" of any range of strings.
template <typename Names>
std::string list_text(const Names& names, std::string_view between = ", ") {
  std::string text;
  for (const auto& name : names) {
    if (!text.empty()) text += between;
    text += name;
  }
  return text;
}

}  // namespace tandem
