// Holds back the bytes of an unfinished UTF-8 character, so that a stream of token pieces is
// printed in whole characters only. One object per stream; not thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

class Utf8Stream {
 public:
  // Takes more bytes; returns what may be printed now. Bytes that can never become a character
  // come out as U+FFFD.
  std::string push(std::string_view bytes);
  // The end of the stream: an unfinished character comes out as U+FFFD.
  std::string flush();

 private:
  std::string pending_;
};

}  // namespace tandem
