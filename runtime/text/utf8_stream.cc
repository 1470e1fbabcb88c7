#include "runtime/text/utf8_stream.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Char c = decode_utf8(pending_, at);
    if (c.truncated) break;
    out += c.valid ? std::string_view(pending_).substr(at, c.size) : kReplacement;
    at += c.size;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::flush() {
  // push() leaves at most one unfinished character, which is one maximal subpart.
  const std::string rest = std::exchange(pending_, {});
  return rest.empty() ? std::string() : std::string(kReplacement);
}

}  // namespace tandem
