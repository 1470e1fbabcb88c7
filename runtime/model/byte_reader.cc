#include "runtime/model/byte_reader.h"

#include <fmt/format.h>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr size_t kMaxShown = 96;  // bytes of untrusted text in a message

}  // namespace

void ByteReader::need(uint64_t n, uint64_t item_bytes, std::string_view what) const {
  if (n <= remaining() / item_bytes) return;
  fail(
      fmt::format("{}: expected {} items of at least {} bytes at offset {}, got {} bytes to the "
                  "end of the file",
                  what, n, item_bytes, position_, remaining()));
}

std::string_view ByteReader::read_bytes(uint64_t n, std::string_view what) {
  if (n > remaining()) {
    fail(fmt::format("{}: expected {} bytes at offset {}, got {} to the end of the file", what, n,
                     position_, remaining()));
  }
  const std::string_view view(reinterpret_cast<const char*>(bytes_.data()) + position_, n);
  position_ += n;
  return view;
}

std::string_view ByteReader::read_string(std::string_view what) {
  return read_bytes(read<uint64_t>(what), what);
}

void ByteReader::fail(const std::string& message) const { throw FileError(where_, message); }

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text.substr(0, kMaxShown)) {
    if (c == '"' || c == '\\') result += '\\';
    if (c >= ' ' && c <= '~') {
      result += c;
    } else {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  result += text.size() > kMaxShown ? "\"..." : "\"";
  return result;
}

}  // namespace tandem
