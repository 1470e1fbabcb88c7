// What counts as a space where only ASCII does: Python's str.strip() and str.lstrip().
#pragma once

#include <string_view>

namespace tandem {

inline constexpr std::string_view kAsciiSpaces = " \t\n\v\f\r";

}  // namespace tandem
