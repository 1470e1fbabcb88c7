// Guesses the next token from the text alone: what followed the longest earlier occurrence of its
// last tokens, as prompt-lookup decoding drafts (github.com/apoorvumang/prompt-lookup-decoding).
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

struct TextMatch {
  int32_t length = 0;    // of the occurrence, in tokens; 0: there is none
  int64_t position = 0;  // of the token that followed it
};

// The longest earlier occurrence of what the text ends in, at most `most` tokens of it; of several
// the latest. It may overlap the end, and lies at least one token before it.
TextMatch longest_match(std::span<const int32_t> text, int32_t most);

}  // namespace tandem
