#include "runtime/text/utf8.h"

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/text/byte_alphabet.h"
#include "runtime/text/utf8_stream.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";

TEST_CASE("every Unicode scalar value survives encoding and decoding, and no surrogate does") {
  for (char32_t code = 0; code < 0x110000; ++code) {
    std::string bytes;
    append_utf8(bytes, code);
    const Utf8Char c = decode_utf8(bytes, 0);
    const bool is_surrogate = code >= 0xD800 && code < 0xE000;
    if (c.valid == is_surrogate || (c.valid && (c.code != code || c.size != bytes.size()))) {
      FAIL("U+" << std::hex << static_cast<unsigned>(code));
    }
  }
}

TEST_CASE("ill-formed UTF-8 is stepped over by maximal subparts") {
  struct Case {
    std::string bytes;
    size_t size;
    bool truncated;
  };
  const Case cases[] = {
      {"\x80", 1, false},              // a continuation on its own
      {"\xC0\xAF", 1, false},          // overlong
      {"\xE0\x9F\xBF", 1, false},      // overlong
      {"\xED\xA0\x80", 1, false},      // a surrogate
      {"\xF4\x90\x80\x80", 1, false},  // above U+10FFFF
      {"\xF5", 1, false},              // never a lead byte
      {"\xE2\x82", 2, true},           // the text ends
      {"\xE2\x82x", 2, false},         // broken off
      {"\xF0\x9F\x98", 3, true},       //
      {"\xF0\x9F\x98\xF0", 3, false},
  };
  for (const Case& c : cases) {
    const Utf8Char got = decode_utf8(c.bytes, 0);
    CAPTURE(c.bytes);
    CHECK_FALSE(got.valid);
    CHECK(got.size == c.size);
    CHECK(got.truncated == c.truncated);
  }
}

TEST_CASE("a stream gives whole characters however its bytes are cut") {
  const std::string text = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80z";
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      Utf8Stream stream;
      std::string out;
      for (const std::string& part :
           {text.substr(0, first), text.substr(first, second - first), text.substr(second)}) {
        const std::string printed = stream.push(part);
        for (size_t at = 0; at < printed.size();) {
          const Utf8Char c = decode_utf8(printed, at);
          REQUIRE(c.valid);
          at += c.size;
        }
        out += printed;
      }
      CHECK(out == text);
      CHECK(stream.flush().empty());
    }
  }
}

TEST_CASE("a stream holds an unfinished character back until it is finished") {
  Utf8Stream stream;
  CHECK(stream.push("x\xE4\xB8") == "x");
  CHECK(stream.push("\xAD") == "\xE4\xB8\xAD");
}

TEST_CASE("a stream prints U+FFFD for what can never become a character") {
  Utf8Stream stream;
  CHECK(stream.push("\x80") == kReplacement);
  CHECK(stream.push("\xE4\xB8") == "");
  CHECK(stream.push("x") == kReplacement + "x");
  CHECK(stream.push("\xF0\x9F") == "");
  CHECK(stream.flush() == kReplacement);
  CHECK(stream.flush().empty());
}

TEST_CASE("the byte alphabet writes every byte as one character of its own") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const std::string written = bytes_to_alphabet(all);
  size_t characters = 0;
  for (size_t at = 0; at < written.size(); at += decode_utf8(written, at).size) ++characters;
  CHECK(characters == 256);
  CHECK(alphabet_to_bytes(written) == all);
  // The three that everybody knows from vocabulary files.
  CHECK(bytes_to_alphabet(" \n\t") == "\xC4\xA0\xC4\x8A\xC4\x89");
}

}  // namespace
}  // namespace tandem
