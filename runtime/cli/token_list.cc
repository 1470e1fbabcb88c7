#include "runtime/cli/token_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "runtime/error.h"

namespace tandem {

std::vector<int32_t> parse_token_list(std::string_view text, int64_t n_vocab) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  std::vector<int32_t> ids;
  for (size_t at = text.find_first_not_of(kBetween); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    int64_t id = -1;
    const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc{} || rest != word.data() + word.size() || id < 0 || id >= n_vocab) {
      throw ConfigError(fmt::format("token \"{}\" is not an id from 0 to {}", word, n_vocab - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
    at = text.find_first_not_of(kBetween, end);
  }
  return ids;
}

}  // namespace tandem
