// Flags that people bring from llama.cpp.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// llama.cpp has flags of several letters behind one dash ("-ctk"), which CLI11 would read as a
// letter and its value. The same flag with two dashes; other arguments as they are.
std::string long_form(std::string_view argument);

// What to do instead of a flag that llama.cpp has and Tandem lacks; empty for other arguments.
// Takes either spelling.
std::string_view instead_of(std::string_view argument);

}  // namespace tandem
