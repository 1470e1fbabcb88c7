// Reads scalars and strings from untrusted bytes, front to back. A view: the bytes and the name
// outlive it. Whatever would run past the end is a FileError that says what was being read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace tandem {

class ByteReader {
 public:
  // `where` opens every message.
  ByteReader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }
  // What was read from a former position() on.
  std::span<const std::byte> since(uint64_t position) const {
    return bytes_.subspan(position, position_ - position);
  }

  // Fails unless n items of at least item_bytes each can follow. Call before allocating for them.
  void need(uint64_t n, uint64_t item_bytes, std::string_view what) const;

  // A scalar in the host's byte order, at any alignment.
  template <typename T>
  T read(std::string_view what) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    T value;
    const std::string_view raw = read_bytes(sizeof(T), what);
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  // A view into the bytes.
  std::string_view read_bytes(uint64_t n, std::string_view what);
  // A 64-bit length, then that many bytes.
  std::string_view read_string(std::string_view what);

  [[noreturn]] void fail(const std::string& message) const;

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  uint64_t position_ = 0;  // at most bytes_.size()
};

// Text of an untrusted file for a message: in quotes, on one line, cut when long.
std::string quoted(std::string_view text);

}  // namespace tandem
