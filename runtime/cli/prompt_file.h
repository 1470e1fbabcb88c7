// Several prompts in one text file.
#pragma once

#include <string>
#include <vector>

namespace tandem {

// Prompts stand between lines that hold nothing but "---"; a text without such a line is one
// prompt. The newline before a separator and the one at the end of the text are left out, and so
// is an empty text behind the last separator. FileError naming `where` and the prompt when one is
// blank.
std::vector<std::string> split_prompts(const std::string& text, const std::string& where);

}  // namespace tandem
