#include "runtime/model/byte_ranges.h"

#include <algorithm>

namespace tandem {

std::vector<ByteRange> merged(std::vector<ByteRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](ByteRange a, ByteRange b) { return a.data() < b.data(); });
  std::vector<ByteRange> out;
  for (const ByteRange& range : ranges) {
    if (out.empty() || out.back().data() + out.back().size() < range.data()) {
      out.push_back(range);
      continue;
    }
    const std::byte* begin = out.back().data();
    const std::byte* end = std::max(begin + out.back().size(), range.data() + range.size());
    out.back() = {begin, end};
  }
  return out;
}

std::vector<ByteRange> cut(const std::vector<ByteRange>& ranges, size_t piece_bytes) {
  std::vector<ByteRange> pieces;
  for (ByteRange rest : ranges) {
    while (!rest.empty()) {
      const size_t n = std::min(rest.size(), piece_bytes);
      pieces.push_back(rest.first(n));
      rest = rest.subspan(n);
    }
  }
  return pieces;
}

int64_t total_bytes(const std::vector<ByteRange>& ranges) {
  size_t bytes = 0;
  for (const ByteRange& range : ranges) bytes += range.size();
  return static_cast<int64_t>(bytes);
}

}  // namespace tandem
