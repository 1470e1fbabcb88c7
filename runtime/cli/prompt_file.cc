#include "runtime/cli/prompt_file.h"

#include <fmt/format.h>

#include <string_view>

#include "runtime/cli/text_io.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr std::string_view kSeparator = "---";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string_view without_return(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// The text before the next separator, and takes both off.
std::string take_prompt(std::string_view* text) {
  for (size_t begin = 0; begin < text->size();) {
    const size_t newline = text->find('\n', begin);
    const size_t end = newline == std::string_view::npos ? text->size() : newline;
    const size_t next = newline == std::string_view::npos ? end : end + 1;
    if (without_return(text->substr(begin, end - begin)) == kSeparator) {
      std::string prompt(text->substr(0, begin));
      text->remove_prefix(next);
      return prompt;
    }
    begin = next;
  }
  std::string prompt(*text);
  text->remove_prefix(text->size());
  return prompt;
}

}  // namespace

std::vector<std::string> split_prompts(const std::string& text, const std::string& where) {
  if (is_blank(text)) throw FileError(where, "holds no prompt");
  std::vector<std::string> prompts;
  for (std::string_view left = text; !left.empty();) {
    prompts.push_back(take_prompt(&left));
    std::string& prompt = prompts.back();
    if (is_blank(prompt)) {
      throw FileError(where, fmt::format("prompt {} is empty; {} stands between prompts",
                                         prompts.size(), kSeparator));
    }
    if (prompt.back() == '\n') prompt.pop_back();
  }
  return prompts;
}

Prompts read_prompts(const std::string& path, const Tokenizer& tokenizer) {
  Prompts prompts;
  for (const std::string& text : split_prompts(read_text(path), path)) {
    prompts.push_back(tokenizer.encode(text, true, true));
  }
  return prompts;
}

void check_prompts_fit(const Prompts& prompts, int64_t n_ctx) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (static_cast<int64_t>(prompts[i].size()) <= n_ctx) continue;
    throw ConfigError(fmt::format("prompt {} is {} tokens long, the context {}; raise -c", i + 1,
                                  prompts[i].size(), n_ctx));
  }
}

}  // namespace tandem
