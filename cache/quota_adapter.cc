#include "cache/quota_adapter.h"

namespace tandem {

void QuotaAdapter::note(LayerId layer, double absent, double resident) {
  Count& count = counts_[static_cast<size_t>(layer.value)];
  if (count.visits == kMemory) count = {kMemory / 2, count.absent / 2, count.resident / 2};
  ++count.visits;
  count.absent += absent;
  count.resident += resident;
}

// Uses per visit and slot that a move turns into hits, less hysteresis.
double QuotaAdapter::gain(size_t from, size_t to) const {
  return counts_[to].absent / counts_[to].visits -
         (1 + kHysteresis) * counts_[from].resident / counts_[from].visits;
}

std::optional<QuotaAdapter::Move> QuotaAdapter::next(std::span<const Layer> layers) {
  std::optional<Move> best;
  double most = 0;
  for (size_t to = 0; to < layers.size(); ++to) {
    if (!layers[to].may_take || !observed(to)) continue;
    for (size_t from = 0; from < layers.size(); ++from) {
      const bool apart = from == to || layers[from].slot_class != layers[to].slot_class;
      if (apart || !layers[from].may_give || !observed(from)) continue;
      if (gain(from, to) <= most) continue;
      most = gain(from, to);
      best = {LayerId{static_cast<int32_t>(from)}, LayerId{static_cast<int32_t>(to)}};
    }
  }
  if (best) {
    counts_[static_cast<size_t>(best->from.value)] = {};
    counts_[static_cast<size_t>(best->to.value)] = {};
  }
  return best;
}

}  // namespace tandem
