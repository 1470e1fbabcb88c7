// Flags that people bring from llama.cpp.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// llama.cpp has flags of several letters behind one dash ("-ctk"), which CLI11 would read as a
// letter and its value. The same flag with two dashes; other arguments as they are.
std::string long_form(std::string_view argument);

// llama-bench gives a value to flags that have none elsewhere ("--mmap 0"). The one flag that says
// the same as a flag in its long form and what follows it; empty when they are not such a pair.
std::string with_value(std::string_view flag, std::string_view value);

// What to do instead of a flag that llama.cpp has and Tandem lacks; empty for other arguments.
// Takes either spelling.
std::string_view instead_of(std::string_view argument);

}  // namespace tandem
