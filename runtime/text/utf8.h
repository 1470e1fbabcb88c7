// Strict UTF-8, one character at a time (Unicode standard, table 3-7: no overlong forms, no
// surrogates, nothing above U+10FFFF). Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

struct Utf8Char {
  char32_t code = 0;  // only where valid
  uint8_t size = 1;   // bytes to step over: of an ill-formed one, its maximal subpart
  bool valid = false;
  bool truncated = false;  // ill-formed only because the text ends: more bytes could complete it
};

// The character that starts at `at`, which is inside `text`.
Utf8Char decode_utf8(std::string_view text, size_t at);

// `code` is a Unicode scalar value.
void append_utf8(std::string& out, char32_t code);

}  // namespace tandem
