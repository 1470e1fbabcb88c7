// One record for each expert of each layer, the ground that most policies stand on. The records
// belong to the expert, not to a slot: they outlive eviction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"

namespace tandem {

template <typename Record>
class ExpertTable {
 public:
  explicit ExpertTable(const PolicyShape& shape)
      : n_experts_(static_cast<size_t>(shape.n_experts)),
        records_(static_cast<size_t>(shape.n_layers) * n_experts_) {}

  Record& at(LayerId layer, ExpertId expert) {
    return records_[static_cast<size_t>(layer.value) * n_experts_ +
                    static_cast<size_t>(expert.value)];
  }
  const Record& at(ExpertKey key) const {
    return records_[static_cast<size_t>(key.layer.value) * n_experts_ +
                    static_cast<size_t>(key.expert.value)];
  }
  std::span<Record> layer(LayerId layer) {
    return std::span(records_).subspan(static_cast<size_t>(layer.value) * n_experts_, n_experts_);
  }
  std::span<const Record> layer(LayerId layer) const {
    return std::span(records_).subspan(static_cast<size_t>(layer.value) * n_experts_, n_experts_);
  }

 private:
  size_t n_experts_;
  std::vector<Record> records_;
};

// Calls visit(rank, expert) for the first `ranks` ranks of a token, those that are known.
template <typename Visit>
void for_ranks(const LayerUse& use, int32_t token, int32_t ranks, Visit visit) {
  const size_t row = static_cast<size_t>(token) * static_cast<size_t>(use.n_ranks);
  for (int32_t r = 0; r < ranks && r < use.n_ranks; ++r) {
    const ExpertId expert = use.ranked[row + static_cast<size_t>(r)];
    if (expert.valid()) visit(row + static_cast<size_t>(r), expert);
  }
}

}  // namespace tandem
