// "1,2,3" or "[1, 2, 3]" as token ids.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tandem {

// ConfigError for what is not a number or not in [0, n_vocab).
std::vector<int32_t> parse_token_list(std::string_view text, int64_t n_vocab);

}  // namespace tandem
