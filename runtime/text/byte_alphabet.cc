#include "runtime/text/byte_alphabet.h"

#include <cstddef>

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

constexpr char32_t kFirstStandIn = 0x100;
constexpr size_t kStandIns = 68;

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// [68]: the bytes that U+0100… stand for.
constexpr std::array<uint8_t, kStandIns> stand_in_bytes() {
  std::array<uint8_t, kStandIns> bytes{};
  size_t n = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (!stands_for_itself(byte)) bytes[n++] = static_cast<uint8_t>(byte);
  }
  return bytes;
}

constexpr std::array<uint8_t, kStandIns> kStandInBytes = stand_in_bytes();

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
  static const std::array<std::string, 256> kAlphabet = [] {
    std::array<std::string, 256> result;
    for (unsigned byte = 0; byte < 256; ++byte) {
      if (stands_for_itself(byte)) append_utf8(result[byte], byte);
    }
    for (size_t i = 0; i < kStandIns; ++i) {
      append_utf8(result[kStandInBytes[i]], kFirstStandIn + static_cast<char32_t>(i));
    }
    return result;
  }();
  return kAlphabet;
}

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) out += byte_alphabet()[static_cast<uint8_t>(c)];
  return out;
}

std::string alphabet_to_bytes(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.valid && c.code < 0x100 && stands_for_itself(c.code)) {
      out += static_cast<char>(c.code);
    } else if (c.valid && c.code >= kFirstStandIn && c.code < kFirstStandIn + kStandIns) {
      out += static_cast<char>(kStandInBytes[c.code - kFirstStandIn]);
    } else {
      out += text.substr(at, c.size);
    }
    at += c.size;
  }
  return out;
}

}  // namespace tandem
