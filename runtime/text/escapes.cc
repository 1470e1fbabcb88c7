#include "runtime/text/escapes.h"

#include <charconv>

namespace tandem {
namespace {

char simple_escape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case '\'':
    case '"':
    case '\\':
      return c;
    default:
      return '\0';
  }
}

}  // namespace

std::string process_escapes(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    if (const char c = simple_escape(text[i + 1]); c != '\0') {
      out += c;
      ++i;
      continue;
    }
    unsigned value = 0;
    const std::string_view hex = text.substr(i + 2, 2);
    const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
    if (text[i + 1] == 'x' && hex.size() == 2 && parsed.ptr == hex.data() + 2) {
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace tandem
