// Which experts are resident in device memory, and where. Pure bookkeeping: no bytes move here.
// Owned by the engine; called only by the thread that runs the step loop. Never allocates after
// construction.
//
// Access is event-atomic. A layer's whole set of experts is classified against the state before
// it; commit() then takes note of the use, protects the set, and gives slots to what comes in.
//
// An expert arrives in pieces, equal parts along its intermediate dimension, and the leading pieces
// that are there can already be used.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"
#include "cache/quota_adapter.h"
#include "cache/types.h"

namespace tandem {

enum class PoolShape : uint8_t {
  kShared,    // any layer with experts of the same size may take any slot
  kPerLayer,  // each layer keeps its own slots
  kAdapted,   // each layer has its own, and after each token one may change hands
};

struct CacheShape {
  int32_t n_layers = 0;
  int32_t n_experts = 0;              // per layer
  int32_t pieces = 1;                 // of one expert
  std::vector<int64_t> expert_bytes;  // [n_layers]
  int64_t capacity_bytes = 0;
  PoolShape pool = PoolShape::kShared;
};

// Slots of one size. Layers of mixed quantisation have experts of different sizes; each size gets
// slots in proportion to the bytes of its experts, so that no byte of a slot is wasted and a freed
// slot always fits its successor.
struct SlotClass {
  int64_t slot_bytes = 0;
  int32_t first = 0;  // slot
  int32_t count = 0;
  int32_t n_layers = 0;  // layers that use it
};
// All slots of a cache of this shape, by first appearance of their size.
std::vector<SlotClass> slot_classes(const CacheShape& shape);

// Which of the experts that are copied on demand stay in the cache.
enum class AdmissionRule : uint8_t {
  kAlways,    // as many as there are slots that the layer does not use
  kIfBetter,  // those that are worth more than whom they displace; a part is worth its part
};
struct Admission {
  static constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

  AdmissionRule rule = AdmissionRule::kAlways;
  // kIfBetter: how much more a newcomer must be worth, as a share of what it displaces.
  double hysteresis = 0;
  // Of a layer in one step: those worth most, of equal ones the first. Free slots count as well.
  int32_t most_per_layer = kNoLimit;
};

// What one layer of one step does to the cache.
struct CacheAccess {
  LayerUse use;
  std::span<const ExpertId> incoming;  // experts without a slot that want one
  std::span<SlotId> slots;             // [incoming.size()], filled by commit()
  std::span<const int32_t> pieces{};   // [incoming.size()] of each that come; empty: all of them
  Admission admission{};
  // Whether an expert may be refused (its slot is then invalid): it passes through a buffer of the
  // executor's and is gone after the layer.
  bool may_refuse = false;
};

struct CacheStats {
  uint64_t hits = 0;    // experts found wholly resident, one count per layer and step
  uint64_t partly = 0;  // found with some pieces; a miss as well
  uint64_t misses = 0;
  uint64_t inserts = 0;
  uint64_t evictions = 0;
  uint64_t refused = 0;  // incoming experts that got no slot
};

class ExpertCache {
 public:
  ExpertCache(const CacheShape& shape, std::unique_ptr<EvictionPolicy> policy);

  const CacheShape& shape() const { return shape_; }
  std::span<const SlotClass> classes() const { return classes_; }
  int32_t n_slots() const { return static_cast<int32_t>(slots_.size()); }
  int64_t slot_bytes(SlotId slot) const;
  const EvictionPolicy& policy() const { return *policy_; }
  const CacheStats& stats() const { return stats_; }
  void reset_stats() { stats_ = {}; }
  int32_t resident() const { return n_resident_; }

  // The expert's slot; invalid when it has none.
  SlotId find(ExpertKey key) const { return slot_of_[index(key)]; }
  // Who has the slot; an invalid key when nobody does.
  ExpertKey occupant(SlotId slot) const { return at(slot).key; }
  // Leading pieces that are there or on their way, and when they have landed.
  int32_t pieces(SlotId slot) const { return at(slot).pieces; }
  ModelTime ready_at(SlotId slot) const { return at(slot).ready; }
  // Slots that this layer's experts have now.
  std::span<const SlotId> slots_of(LayerId layer) const;
  // How many of them it may have; of kShared: all of their size.
  int32_t quota(LayerId layer) const;
  // How many experts without a slot could get one in this layer while all of `used` stay.
  int32_t room_beside(LayerId layer, std::span<const ExpertId> used) const;

  // CHECKs that incoming experts have no slot, are distinct, and, where none may be refused, fit
  // beside `used` and are no more than admission allows. The layer's experts stay protected until
  // the next commit.
  void commit(const CacheAccess& access);
  // So many leading pieces have been sent and land at `ready`.
  void set_pieces(SlotId slot, int32_t pieces, ModelTime ready);

  // The slot that an expert of this layer would get: a free one, or that of the expert with the
  // smallest value that is not protected; invalid when there is none. Of equal values the earlier
  // layer's leaves first, within a layer that of the smaller id.
  struct Offer {
    SlotId slot;
    bool free = false;
    double value = 0;  // of who would leave
  };
  // demand: soft protection gives way when nothing else is left.
  Offer offer(LayerId layer, bool demand = false) const;
  // Gives a slot that was offered to the expert's layer to an expert that has none, with no pieces
  // yet.
  void insert(ExpertKey key, SlotId slot);
  // Takes the slot from its expert.
  void drop(SlotId slot);
  // A protected expert is evicted only by demand that finds nothing else. The current layer's
  // experts are never evicted.
  void protect(SlotId slot, bool on);

 private:
  static constexpr float kNever = std::numeric_limits<float>::infinity();
  struct Slot {
    ExpertKey key;
    int32_t pieces = 0;
    ModelTime ready = 0;
    bool locked = false;  // used by the current layer
    bool protect = false;
    int32_t place = 0;  // in its layer's list
  };
  struct Layer {
    int32_t slot_class = 0;
    int32_t quota = 0;  // how many slots it may have, unless they are shared
    std::vector<SlotId> slots;
    // The evictable slot with the smallest value, kept until something in the layer changes.
    SlotId weakest;
    int64_t valued_at = 0;  // commit that its value is of
    bool stale = true;
    bool old_standings = true;
  };

  size_t index(ExpertKey key) const;
  const Slot& at(SlotId slot) const { return slots_[static_cast<size_t>(slot.value)]; }
  Slot& at(SlotId slot) { return slots_[static_cast<size_t>(slot.value)]; }
  Layer& layer(LayerId id) { return layers_[static_cast<size_t>(id.value)]; }
  const Layer& layer(LayerId id) const { return layers_[static_cast<size_t>(id.value)]; }
  void assign_layers();
  bool has_quotas() const { return shape_.pool != PoolShape::kShared; }
  void note_margins(const LayerUse& use);
  void adapt_quotas(int32_t top_k);
  bool refuses(const CacheAccess& access, size_t incoming, const Offer& offered) const;
  bool within_limit(const CacheAccess& access, size_t incoming) const;
  double worth(double value, int32_t pieces) const;
  struct Weakest {
    SlotId slot;
    double value = 0;
  };
  template <typename WeakestOf>
  Offer least(const Layer& own, WeakestOf weakest_of_layer) const;
  Offer least_layered(int32_t slot_class) const;
  Weakest weakest(LayerId layer) const;
  void find_weakest(LayerId layer) const;
  Weakest weakest_of(const Layer& layer, bool even_protected) const;
  void make_stale(LayerId layer);
  void revalue(LayerId layer);
  Weakest lowest_standing(LayerId layer) const;
  bool weaker(SlotId slot, double value, const Weakest& than) const;
  void note_evictable(SlotId slot);
  void lock(SlotId slot);
  void unlock();
  void stays(SlotId slot);
  void may_leave(SlotId slot);

  CacheShape shape_;
  std::unique_ptr<EvictionPolicy> policy_;
  const LayeredValues* layered_;     // of the policy; may be null
  std::span<const double> weights_;  // [n_layers] its, as of the last commit
  std::vector<SlotClass> classes_;
  std::vector<std::vector<SlotId>> free_;  // by class, taken from the back
  std::vector<SlotId> slot_of_;            // [n_layers * n_experts]
  std::vector<Slot> slots_;
  int64_t n_commits_ = 0;
  mutable std::vector<Layer> layers_;  // `weakest` is a memory of what was computed,
  // as is the value of it, or its standing where the policy's values have two parts; infinity where
  // nobody may leave. [n_layers]
  mutable std::vector<double> leasts_;
  // Where values have two parts and slots are shared: layers that are stale,
  mutable std::vector<LayerId> stale_;
  mutable std::vector<double> offers_;      // what each would give, [n_layers],
  std::vector<std::vector<double>> apart_;  // and by class: 0 for its layers, infinity for others.
  mutable Offer offered_;                   // as is this, of the last offer that was not free:
  mutable int32_t offered_to_ = 0;          // the layer, or where slots are shared their class,
  mutable int64_t offered_at_ = -1;         // as of this change
  int64_t n_changes_ = 0;                   // of who may leave, and of values
  std::vector<SlotId> locked_;
  std::vector<float> kept_;  // [n_layers * n_experts] 0 where the expert may leave, else infinity
  mutable std::vector<float> standings_;  // [n_layers * n_experts] where the policy has them
  // For kAdapted.
  QuotaAdapter adapter_;
  std::vector<QuotaAdapter::Layer> adaptable_;  // [n_layers]
  std::vector<double> values_;                  // [n_experts] of the layer at hand
  int32_t n_resident_ = 0;
  CacheStats stats_;
};

}  // namespace tandem
