#include "cache/expert_cache.h"

#include <algorithm>
#include <utility>

#include "cache/check.h"

namespace tandem {

ExpertCache::ExpertCache(const CacheShape& shape, std::unique_ptr<EvictionPolicy> policy)
    : shape_(shape),
      policy_(std::move(policy)),
      layered_(policy_ != nullptr ? policy_->layered() : nullptr),
      classes_(slot_classes(shape)),
      slot_of_(static_cast<size_t>(shape.n_layers) * static_cast<size_t>(shape.n_experts)),
      slots_(static_cast<size_t>(classes_.back().first + classes_.back().count)),
      layers_(static_cast<size_t>(shape.n_layers)),
      leasts_(layers_.size()),
      offers_(layers_.size()),
      kept_(slot_of_.size(), kNever),
      standings_(kept_.size()),
      adapter_(shape.n_layers),
      adaptable_(static_cast<size_t>(shape.n_layers)),
      values_(static_cast<size_t>(shape.n_experts)) {
  TANDEM_CHECK(policy_ != nullptr, "an eviction policy is needed");
  TANDEM_CHECK(shape_.pieces >= 1, "%d pieces", shape_.pieces);
  stale_.reserve(layers_.size());
  assign_layers();
  if (layered_ != nullptr) weights_ = layered_->weights();
  locked_.reserve(static_cast<size_t>(shape.n_experts));
}

void ExpertCache::assign_layers() {
  std::vector<int32_t> given(classes_.size(), 0);
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    const auto c = std::find_if(classes_.begin(), classes_.end(), [&](const SlotClass& one) {
      return one.slot_bytes == shape_.expert_bytes[l];
    });
    layer.slot_class = static_cast<int32_t>(c - classes_.begin());
    const int32_t nth = given[static_cast<size_t>(layer.slot_class)]++;
    layer.quota = c->count / c->n_layers + (nth < c->count % c->n_layers ? 1 : 0);
    layer.slots.reserve(static_cast<size_t>(shape_.n_experts));
  }
  for (const SlotClass& c : classes_) {
    std::vector<SlotId>& free = free_.emplace_back();
    free.reserve(static_cast<size_t>(c.count));
    for (int32_t s = c.count; s-- > 0;) free.push_back(SlotId{c.first + s});
    apart_.emplace_back(layers_.size(), kNever);
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    apart_[static_cast<size_t>(layers_[l].slot_class)][l] = 0;
    stale_.push_back(LayerId{static_cast<int32_t>(l)});
  }
}

size_t ExpertCache::index(ExpertKey key) const {
  TANDEM_CHECK(key.layer.valid() && key.layer.value < shape_.n_layers && key.expert.valid() &&
                   key.expert.value < shape_.n_experts,
               "layer %d expert %d of %d x %d", key.layer.value, key.expert.value, shape_.n_layers,
               shape_.n_experts);
  return static_cast<size_t>(key.layer.value) * static_cast<size_t>(shape_.n_experts) +
         static_cast<size_t>(key.expert.value);
}

int64_t ExpertCache::slot_bytes(SlotId slot) const {
  for (const SlotClass& c : classes_) {
    if (slot.value < c.first + c.count) return c.slot_bytes;
  }
  return 0;
}

std::span<const SlotId> ExpertCache::slots_of(LayerId id) const { return layer(id).slots; }

int32_t ExpertCache::quota(LayerId id) const {
  const Layer& own = layer(id);
  return has_quotas() ? own.quota : classes_[static_cast<size_t>(own.slot_class)].count;
}

int32_t ExpertCache::room_beside(LayerId id, std::span<const ExpertId> used) const {
  int32_t room = quota(id);
  for (const ExpertId expert : used) room -= find({id, expert}).valid() ? 1 : 0;
  return std::max(room, 0);
}

void ExpertCache::commit(const CacheAccess& access) {
  const LayerUse& use = access.use;
  TANDEM_CHECK(access.slots.size() == access.incoming.size(), "%zu incoming, %zu slots",
               access.incoming.size(), access.slots.size());
  TANDEM_CHECK(access.may_refuse ||
                   access.incoming.size() <= static_cast<size_t>(access.admission.most_per_layer),
               "%zu incoming, at most %d are admitted", access.incoming.size(),
               access.admission.most_per_layer);
  TANDEM_CHECK(access.pieces.empty() || access.pieces.size() == access.incoming.size(),
               "%zu incoming, %zu times pieces", access.incoming.size(), access.pieces.size());
  ++n_changes_;
  unlock();
  for (const ExpertId expert : use.used) {
    const SlotId slot = find({use.layer, expert});
    if (!slot.valid()) {
      ++stats_.misses;
      continue;
    }
    const bool whole = at(slot).pieces == shape_.pieces;
    ++(whole ? stats_.hits : stats_.misses);
    if (!whole && at(slot).pieces > 0) ++stats_.partly;
    lock(slot);
  }
  const bool adapts = shape_.pool == PoolShape::kAdapted;
  if (adapts) note_margins(use);
  policy_->on_use(use);
  if (layered_ != nullptr) weights_ = layered_->weights();
  ++n_commits_;
  ++n_changes_;
  revalue(use.layer);
  for (const LayerId id : policy_->reordered()) revalue(id);
  for (size_t i = 0; i < access.incoming.size(); ++i) {
    const ExpertKey key{use.layer, access.incoming[i]};
    const Offer offered = offer(use.layer, true);
    if (access.may_refuse && refuses(access, i, offered)) {
      ++stats_.refused;
      access.slots[i] = SlotId{};
      continue;
    }
    TANDEM_CHECK(offered.slot.valid(), "no slot for incoming expert %zu of %zu", i + 1,
                 access.incoming.size());
    insert(key, offered.slot);
    lock(offered.slot);
    access.slots[i] = offered.slot;
  }
  if (adapts && use.layer.value == shape_.n_layers - 1) adapt_quotas(use.top_k);
}

// How many of the experts that are used now stood, before this use, among the strongest of the
// absent and among the weakest residents. Equal values count as farther from the margin.
void ExpertCache::note_margins(const LayerUse& use) {
  for (int32_t e = 0; e < shape_.n_experts; ++e) {
    values_[static_cast<size_t>(e)] = policy_->value({use.layer, ExpertId{e}});
  }
  const int32_t margin = QuotaAdapter::margin(quota(use.layer));
  int32_t absent = 0;
  int32_t residents = 0;
  for (const ExpertId used : use.used) {
    const bool resident = find({use.layer, used}).valid();
    const double value = values_[static_cast<size_t>(used.value)];
    int32_t nearer = -1;  // itself
    for (int32_t e = 0; e < shape_.n_experts; ++e) {
      const double other = values_[static_cast<size_t>(e)];
      if (resident ? other > value : other < value) continue;
      if (find({use.layer, ExpertId{e}}).valid() == resident) ++nearer;
    }
    if (nearer < margin) ++(resident ? residents : absent);
  }
  adapter_.note(use.layer, static_cast<double>(absent) / margin,
                static_cast<double>(residents) / margin);
}

void ExpertCache::adapt_quotas(int32_t top_k) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& one = layers_[l];
    const SlotClass& slots = classes_[static_cast<size_t>(one.slot_class)];
    const bool full = static_cast<int32_t>(one.slots.size()) == one.quota;
    adaptable_[l].slot_class = one.slot_class;
    adaptable_[l].may_take = full && one.quota < shape_.n_experts;
    adaptable_[l].may_give = one.quota > std::min(top_k, slots.count / slots.n_layers) &&
                             (!full || weakest(LayerId{static_cast<int32_t>(l)}).slot.valid());
  }
  const auto move = adapter_.next(adaptable_);
  if (!move) return;
  Layer& from = layer(move->from);
  if (static_cast<int32_t>(from.slots.size()) == from.quota) {
    ++stats_.evictions;
    drop(weakest(move->from).slot);
  }
  --from.quota;
  ++layer(move->to).quota;
}

// Values below zero (a next use far away) shrink by growing.
double ExpertCache::worth(double value, int32_t pieces) const {
  const double part = static_cast<double>(pieces) / shape_.pieces;
  return value >= 0 ? value * part : value / part;
}

// Whether fewer than most_per_layer of the incoming experts come before this one.
bool ExpertCache::within_limit(const CacheAccess& access, size_t incoming) const {
  const auto most = static_cast<size_t>(access.admission.most_per_layer);
  if (access.incoming.size() <= most) return true;
  const auto value = [&](size_t i) {
    return policy_->value({access.use.layer, access.incoming[i]});
  };
  const double own = value(incoming);
  size_t before = 0;
  for (size_t i = 0; i < access.incoming.size(); ++i) {
    const double other = value(i);
    if (other > own || (other == own && i < incoming)) ++before;
  }
  return before < most;
}

bool ExpertCache::refuses(const CacheAccess& access, size_t incoming, const Offer& offered) const {
  if (!offered.slot.valid() || !within_limit(access, incoming)) return true;
  if (offered.free || access.admission.rule == AdmissionRule::kAlways) return false;
  const double value = policy_->value({access.use.layer, access.incoming[incoming]});
  const int32_t pieces = access.pieces.empty() ? shape_.pieces : access.pieces[incoming];
  const double displaced = worth(offered.value, at(offered.slot).pieces);
  const double factor = 1 + access.admission.hysteresis;
  return worth(value, pieces) <= (displaced >= 0 ? displaced * factor : displaced / factor);
}

void ExpertCache::lock(SlotId slot) {
  at(slot).locked = true;
  locked_.push_back(slot);
  ++n_changes_;
  note_evictable(slot);
  stays(slot);
}

void ExpertCache::unlock() {
  for (const SlotId slot : locked_) {
    at(slot).locked = false;
    note_evictable(slot);
    may_leave(slot);
  }
  locked_.clear();
}

void ExpertCache::set_pieces(SlotId slot, int32_t pieces, ModelTime ready) {
  TANDEM_CHECK(at(slot).key.layer.valid() && pieces >= at(slot).pieces && pieces <= shape_.pieces,
               "slot %d has %d pieces, not %d", slot.value, at(slot).pieces, pieces);
  at(slot).pieces = pieces;
  at(slot).ready = ready;
}

void ExpertCache::insert(ExpertKey key, SlotId slot) {
  TANDEM_CHECK(!find(key).valid(), "layer %d expert %d has a slot already", key.layer.value,
               key.expert.value);
  TANDEM_CHECK(slot.valid() && slot.value < n_slots(), "slot %d of %d", slot.value, n_slots());
  TANDEM_CHECK(!at(slot).locked, "slot %d is in use", slot.value);
  if (at(slot).key.layer.valid()) {
    ++stats_.evictions;
    drop(slot);
  }
  auto& free = free_[static_cast<size_t>(layer(key.layer).slot_class)];
  TANDEM_CHECK(!free.empty() && free.back() == slot, "slot %d was not offered", slot.value);
  free.pop_back();
  ++n_changes_;
  ++stats_.inserts;
  ++n_resident_;
  slot_of_[index(key)] = slot;
  Layer& own = layer(key.layer);
  TANDEM_CHECK(!has_quotas() || static_cast<int32_t>(own.slots.size()) < own.quota,
               "layer %d has its %d slots", key.layer.value, own.quota);
  at(slot) = {key, 0, 0, false, false, static_cast<int32_t>(own.slots.size())};
  own.slots.push_back(slot);
  note_evictable(slot);
  may_leave(slot);
}

void ExpertCache::drop(SlotId slot) {
  ++n_changes_;
  const ExpertKey key = at(slot).key;
  TANDEM_CHECK(key.layer.valid() && !at(slot).locked, "slot %d is empty or in use", slot.value);
  Layer& own = layer(key.layer);
  const SlotId last = own.slots.back();
  own.slots[static_cast<size_t>(at(slot).place)] = last;
  at(last).place = at(slot).place;
  own.slots.pop_back();
  stays(slot);
  slot_of_[index(key)] = SlotId{};
  kept_[index(key)] = kNever;
  at(slot) = {};
  free_[static_cast<size_t>(own.slot_class)].push_back(slot);
  --n_resident_;
}

void ExpertCache::protect(SlotId slot, bool on) {
  if (at(slot).protect == on) return;
  ++n_changes_;
  at(slot).protect = on;
  note_evictable(slot);
  if (on) {
    stays(slot);
  } else {
    may_leave(slot);
  }
}

}  // namespace tandem
