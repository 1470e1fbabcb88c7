// GPT-2's alphabet: every byte is written as one printable Unicode character, so that a byte-level
// vocabulary is a list of plain strings. Printable Latin-1 stands for itself, the other 68 bytes
// are U+0100 onwards in order. Source: bytes_to_unicode() of OpenAI's gpt-2 encoder.
// Pure functions; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// [256]: the character of each byte, as UTF-8.
const std::array<std::string, 256>& byte_alphabet();

std::string bytes_to_alphabet(std::string_view bytes);
// A character outside the alphabet stays as it is.
std::string alphabet_to_bytes(std::string_view text);

}  // namespace tandem
