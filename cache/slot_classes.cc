#include <algorithm>

#include "cache/check.h"
#include "cache/expert_cache.h"

namespace tandem {

std::vector<SlotClass> slot_classes(const CacheShape& shape) {
  TANDEM_CHECK(shape.expert_bytes.size() == static_cast<size_t>(shape.n_layers),
               "%zu sizes for %d layers", shape.expert_bytes.size(), shape.n_layers);
  TANDEM_CHECK(shape.n_layers > 0 && shape.n_experts > 0, "%d layers of %d experts", shape.n_layers,
               shape.n_experts);
  std::vector<SlotClass> classes;
  double all_bytes = 0;
  for (const int64_t bytes : shape.expert_bytes) {
    TANDEM_CHECK(bytes > 0, "experts of %lld bytes", static_cast<long long>(bytes));
    auto c = std::find_if(classes.begin(), classes.end(),
                          [&](const SlotClass& one) { return one.slot_bytes == bytes; });
    if (c == classes.end()) c = classes.insert(c, SlotClass{bytes, 0, 0, 0});
    ++c->n_layers;
    all_bytes += static_cast<double>(bytes) * shape.n_experts;
  }
  // Never more than 1, so the counts below fit.
  const double share = std::clamp(static_cast<double>(shape.capacity_bytes) / all_bytes, 0.0, 1.0);
  int64_t left = shape.capacity_bytes;
  for (SlotClass& c : classes) {
    c.count = static_cast<int32_t>(share * c.n_layers * shape.n_experts);
    left -= c.count * c.slot_bytes;
  }
  int32_t first = 0;
  for (SlotClass& c : classes) {  // what rounding down left over
    const int64_t more = std::min<int64_t>(std::max<int64_t>(left, 0) / c.slot_bytes,
                                           c.n_layers * shape.n_experts - c.count);
    c.count += static_cast<int32_t>(more);
    left -= more * c.slot_bytes;
    c.first = first;
    first += c.count;
  }
  return classes;
}

}  // namespace tandem
