#include "runtime/pregate/text_lookup.h"

namespace tandem {

TextMatch longest_match(std::span<const int32_t> text, int32_t most) {
  TextMatch best;
  const auto n = static_cast<int64_t>(text.size());
  const auto at = [&](int64_t i) { return text[static_cast<size_t>(i)]; };
  // Backwards, so that the latest of the same length is kept.
  for (int64_t end = n - 2; end >= 0 && best.length < most; --end) {
    int32_t length = 0;
    while (length < most && length <= end && at(end - length) == at(n - 1 - length)) ++length;
    if (length > best.length) best = {length, end + 1};
  }
  return best;
}

}  // namespace tandem
