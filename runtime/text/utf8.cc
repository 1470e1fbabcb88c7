#include "runtime/text/utf8.h"

namespace tandem {
namespace {

// What a lead byte promises: how many bytes follow and which values the first of them may have
// (the narrowed ranges are what keeps overlong forms, surrogates and codes past U+10FFFF out).
struct Lead {
  uint8_t n_follow;
  uint8_t first_min;
  uint8_t first_max;
  uint8_t bits;  // of the code that the lead itself holds
};

Lead classify(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF, static_cast<uint8_t>(byte & 0x1F)};
  if (byte >= 0xE0 && byte <= 0xEF) {
    const uint8_t low = byte == 0xE0 ? 0xA0 : 0x80;
    const uint8_t high = byte == 0xED ? 0x9F : 0xBF;
    return {2, low, high, static_cast<uint8_t>(byte & 0x0F)};
  }
  if (byte >= 0xF0 && byte <= 0xF4) {
    const uint8_t low = byte == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = byte == 0xF4 ? 0x8F : 0xBF;
    return {3, low, high, static_cast<uint8_t>(byte & 0x07)};
  }
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, size_t at) {
  const auto byte_at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  Utf8Char result;
  const uint8_t first = byte_at(at);
  if (first < 0x80) {
    result.code = first;
    result.valid = true;
    return result;
  }
  const Lead lead = classify(first);
  if (lead.n_follow == 0) return result;
  char32_t code = lead.bits;
  for (uint8_t i = 1; i <= lead.n_follow; ++i) {
    if (at + i == text.size()) {
      result.truncated = true;
      return result;
    }
    const uint8_t byte = byte_at(at + i);
    const uint8_t low = i == 1 ? lead.first_min : 0x80;
    const uint8_t high = i == 1 ? lead.first_max : 0xBF;
    if (byte < low || byte > high) return result;
    code = code << 6 | (byte & 0x3F);
    ++result.size;
  }
  result.code = code;
  result.valid = true;
  return result;
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  const auto put_follow = [&](int shift) { put(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put_follow(0);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put_follow(6);
    put_follow(0);
  } else {
    put(0xF0 | code >> 18);
    put_follow(12);
    put_follow(6);
    put_follow(0);
  }
}

}  // namespace tandem
