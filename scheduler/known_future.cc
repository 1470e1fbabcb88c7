#include "scheduler/known_future.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tandem {

KnownFuture::KnownFuture(const Trace& trace, const std::vector<std::vector<int32_t>>& steps)
    : n_layers_(trace.header.n_layers), n_experts_(trace.header.n_experts) {
  uses_.resize(static_cast<size_t>(n_layers_) * static_cast<size_t>(n_experts_));
  next_.assign(uses_.size(), 0);
  std::vector<uint8_t> seen(static_cast<size_t>(n_experts_));
  first_.push_back(0);
  int64_t visit = 0;
  for (const std::vector<int32_t>& rows : steps) {
    for (int32_t layer = 0; layer < n_layers_; ++layer, ++visit) {
      std::fill(seen.begin(), seen.end(), 0);
      for (const int32_t row : rows) {
        const auto ids = trace.ids_of(row, layer);
        for (int32_t k = 0; k < trace.header.top_k; ++k) {
          const int16_t id = ids[static_cast<size_t>(k)];
          if (id < 0 || std::exchange(seen[static_cast<size_t>(id)], 1) != 0) continue;
          used_.push_back(ExpertId{id});
          uses_[index({LayerId{layer}, ExpertId{id}})].push_back(visit);
        }
      }
      first_.push_back(static_cast<int64_t>(used_.size()));
    }
  }
}

double KnownFuture::next_use(ExpertKey key) const {
  const std::vector<int64_t>& uses = uses_[index(key)];
  size_t& next = next_[index(key)];
  while (next < uses.size() && uses[next] <= now_) ++next;
  return next < uses.size() ? static_cast<double>(uses[next] - now_)
                            : std::numeric_limits<double>::infinity();
}

Future::Visit KnownFuture::visit(int32_t ahead) const {
  const int64_t at = now_ + ahead;
  if (at < 0 || at + 1 >= static_cast<int64_t>(first_.size())) return {};
  const auto begin = static_cast<size_t>(first_[static_cast<size_t>(at)]);
  const auto end = static_cast<size_t>(first_[static_cast<size_t>(at) + 1]);
  return {LayerId{static_cast<int32_t>(at % n_layers_)},
          std::span(used_).subspan(begin, end - begin)};
}

}  // namespace tandem
