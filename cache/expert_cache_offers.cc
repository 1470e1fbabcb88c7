// Who leaves next: the part of ExpertCache that looks for the smallest value.
#include <algorithm>
#include <utility>

#include "cache/expert_cache.h"
#include "cache/least.h"

namespace tandem {

ExpertCache::Offer ExpertCache::offer(LayerId id, bool demand) const {
  const Layer& own = layer(id);
  const auto& free = free_[static_cast<size_t>(own.slot_class)];
  const bool below_quota = static_cast<int32_t>(own.slots.size()) < own.quota;
  if (!free.empty() && (!has_quotas() || below_quota)) return {free.back(), true, 0};
  const int32_t to = has_quotas() ? id.value : own.slot_class;
  if (offered_at_ != n_changes_ || offered_to_ != to) {
    offered_ = layered_ != nullptr && !has_quotas()
                   ? least_layered(own.slot_class)
                   : least(own, [&](LayerId other) { return weakest(other); });
    offered_to_ = to;
    offered_at_ = n_changes_;
  }
  if (offered_.slot.valid() || !demand) return offered_;
  return least(own, [&](LayerId other) { return weakest_of(layer(other), true); });
}

// Of the layers whose slots this one may take.
template <typename WeakestOf>
ExpertCache::Offer ExpertCache::least(const Layer& own, WeakestOf weakest_of_layer) const {
  Offer best;
  for (LayerId id{0}; id.value < shape_.n_layers; ++id.value) {
    const Layer& other = layer(id);
    if (has_quotas() ? &other != &own : other.slot_class != own.slot_class) continue;
    const Weakest one = weakest_of_layer(id);
    if (!one.slot.valid()) continue;
    if (!best.slot.valid() || one.value < best.value) best = {one.slot, false, one.value};
  }
  return best;
}

// The same, where slots are shared and each layer's weakest is known but for a few.
ExpertCache::Offer ExpertCache::least_layered(int32_t slot_class) const {
  for (const LayerId id : stale_) find_weakest(id);
  stale_.clear();
  const std::vector<double>& apart = apart_[static_cast<size_t>(slot_class)];
  for (size_t l = 0; l < offers_.size(); ++l) offers_[l] = weights_[l] * leasts_[l] + apart[l];
  const auto [value, l] = least_of(offers_);
  if (value == kNever) return {};
  return {layers_[l].weakest, false, value};
}

// Values change with each commit, the order within a layer only where it is stale.
ExpertCache::Weakest ExpertCache::weakest(LayerId id) const {
  Layer& own = layers_[static_cast<size_t>(id.value)];
  if (own.stale) find_weakest(id);
  double& least = leasts_[static_cast<size_t>(id.value)];
  if (layered_ != nullptr) return {own.weakest, weights_[static_cast<size_t>(id.value)] * least};
  if (own.valued_at != n_commits_ && own.weakest.valid()) {
    least = policy_->value(at(own.weakest).key);
    own.valued_at = n_commits_;
  }
  return {own.weakest, least};
}

void ExpertCache::find_weakest(LayerId id) const {
  Layer& own = layers_[static_cast<size_t>(id.value)];
  const Weakest found = layered_ != nullptr ? lowest_standing(id) : weakest_of(own, false);
  own.weakest = found.slot;
  leasts_[static_cast<size_t>(id.value)] = found.slot.valid() ? found.value : kNever;
  own.valued_at = n_commits_;
  own.stale = false;
}

void ExpertCache::make_stale(LayerId id) {
  if (std::exchange(layer(id).stale, true) || has_quotas()) return;
  if (layered_ != nullptr) stale_.push_back(id);
}

void ExpertCache::revalue(LayerId id) {
  make_stale(id);
  layer(id).old_standings = true;
}

ExpertCache::Weakest ExpertCache::lowest_standing(LayerId id) const {
  const size_t first = index({id, ExpertId{0}});
  const auto n = static_cast<size_t>(shape_.n_experts);
  const std::span<float> standings = std::span(standings_).subspan(first, n);
  if (std::exchange(layers_[static_cast<size_t>(id.value)].old_standings, false)) {
    layered_->standings(id, standings);
  }
  const auto [least, at] = least_sum(standings, std::span(kept_).subspan(first, n));
  if (least == kNever) return {};
  return {slot_of_[first + at], static_cast<double>(least)};
}

ExpertCache::Weakest ExpertCache::weakest_of(const Layer& layer, bool even_protected) const {
  Weakest weakest;
  for (const SlotId slot : layer.slots) {
    if (at(slot).locked || (at(slot).protect && !even_protected)) continue;
    const double value = policy_->value(at(slot).key);
    if (weaker(slot, value, weakest)) weakest = {slot, value};
  }
  return weakest;
}

// Of one layer's.
bool ExpertCache::weaker(SlotId slot, double value, const Weakest& than) const {
  if (!than.slot.valid() || value < than.value) return true;
  return value == than.value && at(slot).key.expert <= at(than.slot).key.expert;
}

void ExpertCache::note_evictable(SlotId slot) {
  const Slot& one = at(slot);
  if (one.key.layer.valid()) kept_[index(one.key)] = one.locked || one.protect ? kNever : 0;
}

// The slot was perhaps evictable and is so no more.
void ExpertCache::stays(SlotId slot) {
  if (!at(slot).key.layer.valid()) return;
  const LayerId id = at(slot).key.layer;
  if (layer(id).weakest == slot) make_stale(id);
}

// The slot was perhaps not evictable.
void ExpertCache::may_leave(SlotId slot) {
  const ExpertKey key = at(slot).key;
  if (!key.layer.valid() || at(slot).locked || at(slot).protect) return;
  Layer& own = layer(key.layer);
  if (layered_ == nullptr) make_stale(key.layer);
  if (own.stale) return;
  const double standing = static_cast<double>(layered_->standing(key));
  double& least = leasts_[static_cast<size_t>(key.layer.value)];
  if (!weaker(slot, standing, {own.weakest, least})) return;
  own.weakest = slot;
  least = standing;
}

}  // namespace tandem
