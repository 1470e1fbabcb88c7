// The three formats, each in its own file. `where` opens every message.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "scheduler/trace.h"

namespace tandem {

inline constexpr std::string_view kTraceMagic = "TANDEMRT";  // first bytes of our own format

Trace parse_binary_trace(std::span<const std::byte> image, const std::string& where);
Trace parse_csv_trace(std::string_view text, const std::string& where);
Trace parse_jsonl_trace(std::string_view text, const std::string& where);

// Hands the file over piece by piece. The trace has no fault (find_trace_fault).
using TraceSink = std::function<void(std::string_view)>;
void encode_binary_trace(const Trace& trace, const TraceSink& sink);

// Takes a line off the text, without its end. Lines longer than most_bytes are cut to one byte
// more, for the caller to refuse.
inline std::string_view take_line(std::string_view& text, size_t most_bytes) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line.substr(0, most_bytes + 1);
}

}  // namespace tandem
