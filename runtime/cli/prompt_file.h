// Several prompts in one text file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tandem {

// Prompts stand between lines that hold nothing but "---"; a text without such a line is one
// prompt. The newline before a separator and the one at the end of the text are left out, and so
// is an empty text behind the last separator. FileError naming `where` and the prompt when one is
// blank.
std::vector<std::string> split_prompts(const std::string& text, const std::string& where);

using Prompts = std::vector<std::vector<TokenId>>;

// Those of a file ("-": standard input), with the model's special tokens.
Prompts read_prompts(const std::string& path, const Tokenizer& tokenizer);
// ConfigError for a prompt that is longer than the context.
void check_prompts_fit(const Prompts& prompts, int64_t n_ctx);

}  // namespace tandem
