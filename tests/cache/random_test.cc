// Random accesses and everything that may happen between them; the whole state is compared with a
// model that keeps the list of residents and, for worths, nothing but the history of uses.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/cache/policy_definitions.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

struct Resident {
  ExpertKey key;
  int pieces = 0;
  bool locked = false;
  bool protect = false;
};

class Model {
 public:
  Model(const CacheShape& shape, const Definition& definition,
        const std::vector<SlotClass>& classes)
      : shape_(shape), definition_(definition), classes_(classes) {
    for (int l = 0; l < shape.n_layers; ++l) slots_.push_back(first_slots_for(l));
  }

  std::vector<Resident> residents;
  CacheStats stats;
  int64_t now = -1;  // the event
  int moves = 0;     // of slots between layers

  // The layer has so many slots from here on; who is too many leaves.
  void set_slots(int layer, int32_t slots) {
    if (slots_for(layer) == slots) return;
    slots_[static_cast<size_t>(layer)] = slots;
    std::vector<Resident*> own;
    for (Resident& one : residents) {
      if (one.key.layer.value == layer) own.push_back(&one);
    }
    if (static_cast<int32_t>(own.size()) <= slots) return;
    std::erase_if(own, [](const Resident* one) { return one->locked || one->protect; });
    Resident* leaves = *std::min_element(own.begin(), own.end(), [&](Resident* a, Resident* b) {
      return rank(a->key) < rank(b->key);
    });
    residents.erase(residents.begin() + (leaves - residents.data()));
    ++stats.evictions;
    ++moves;
  }

  Resident* find(ExpertKey key) {
    for (Resident& one : residents) {
      if (one.key == key) return &one;
    }
    return nullptr;
  }

  // Who would leave for an expert of this layer; free: nobody has to.
  struct Answer {
    bool free = false;
    Resident* leaves = nullptr;
  };
  Answer offer(int layer, bool demand) {
    std::vector<Resident*> rivals;
    for (Resident& one : residents) {
      if (are_rivals(one.key.layer.value, layer)) rivals.push_back(&one);
    }
    if (static_cast<int64_t>(rivals.size()) < slots_for(layer)) return {true, nullptr};
    Answer answer;
    for (const bool even_protected : {false, true}) {
      if (even_protected && (!demand || answer.leaves != nullptr)) break;
      for (Resident* one : rivals) {
        if (one->locked || (one->protect && !even_protected)) continue;
        if (answer.leaves == nullptr || rank(one->key) < rank(answer.leaves->key)) {
          answer.leaves = one;
        }
      }
    }
    return answer;
  }

  void insert(ExpertKey key, const Answer& where) {
    if (where.leaves != nullptr) {
      residents.erase(residents.begin() + (where.leaves - residents.data()));
      ++stats.evictions;
    }
    residents.push_back({key});
    ++stats.inserts;
  }

  void access(const Routing& routing, const std::vector<ExpertId>& incoming) {
    ++now;
    for (Resident& one : residents) one.locked = false;
    for (const ExpertId expert : routing.used) {
      Resident* one = find({LayerId{routing.layer}, expert});
      const int pieces = one == nullptr ? 0 : one->pieces;
      stats.hits += pieces == shape_.pieces ? 1 : 0;
      stats.misses += pieces < shape_.pieces ? 1 : 0;
      stats.partly += pieces > 0 && pieces < shape_.pieces ? 1 : 0;
      if (one != nullptr) one->locked = true;
    }
    for (const ExpertId expert : incoming) {
      insert({LayerId{routing.layer}, expert}, offer(routing.layer, true));
      residents.back().locked = true;
    }
  }

 private:
  bool are_rivals(int a, int b) const {
    const auto bytes = [&](int layer) { return shape_.expert_bytes[static_cast<size_t>(layer)]; };
    return shape_.pool == PoolShape::kShared ? bytes(a) == bytes(b) : a == b;
  }
  int64_t slots_for(int layer) const { return slots_[static_cast<size_t>(layer)]; }
  int64_t first_slots_for(int layer) const {
    const int64_t bytes = shape_.expert_bytes[static_cast<size_t>(layer)];
    int64_t count = 0;
    for (const SlotClass& c : classes_) count = c.slot_bytes == bytes ? c.count : count;
    if (shape_.pool == PoolShape::kShared) return count;
    const auto own = shape_.expert_bytes.begin() + layer;
    const auto before = std::count(shape_.expert_bytes.begin(), own, bytes);
    const auto all = std::count(shape_.expert_bytes.begin(), shape_.expert_bytes.end(), bytes);
    return count / all + (before < count % all ? 1 : 0);
  }
  std::pair<Worth, ExpertKey> rank(ExpertKey key) {
    if (now < 0) return {{0, 0}, key};
    if (std::exchange(known_, now) != now) worths_.clear();
    const auto found = worths_.find(key);
    if (found != worths_.end()) return {found->second, key};
    return {worths_[key] = definition_.worth(key, static_cast<size_t>(now)), key};
  }

  const CacheShape& shape_;
  const Definition& definition_;
  std::vector<SlotClass> classes_;
  std::vector<int64_t> slots_;  // [n_layers] that a layer's experts may take
  int64_t known_ = -1;          // the event that worths_ belongs to
  std::map<ExpertKey, Worth> worths_;
};

// Slot map, occupants and layers' lists agree, nobody lives in two slots, sizes fit, and the
// residents are those of the model.
void require_same(const ExpertCache& cache, Model& model) {
  const CacheShape& shape = cache.shape();
  REQUIRE(cache.resident() == static_cast<int32_t>(model.residents.size()));
  for (const Resident& one : model.residents) {
    const SlotId slot = cache.find(one.key);
    REQUIRE(slot.valid());
    REQUIRE(cache.occupant(slot) == one.key);
    REQUIRE(cache.pieces(slot) == one.pieces);
    REQUIRE(cache.slot_bytes(slot) == shape.expert_bytes[static_cast<size_t>(one.key.layer.value)]);
  }
  int32_t occupied = 0;
  for (int s = 0; s < cache.n_slots(); ++s) {
    const ExpertKey who = cache.occupant(SlotId{s});
    if (!who.layer.valid()) continue;
    ++occupied;
    REQUIRE(cache.find(who) == SlotId{s});
    const auto list = cache.slots_of(who.layer);
    REQUIRE(std::count(list.begin(), list.end(), SlotId{s}) == 1);
  }
  REQUIRE(occupied == cache.resident());
  size_t listed = 0;
  for (int l = 0; l < shape.n_layers; ++l) listed += cache.slots_of(LayerId{l}).size();
  REQUIRE(listed == model.residents.size());
}

class Run {
 public:
  Run(const Choice& choice, const CacheShape& shape, uint32_t seed, int n_events)
      : random_(seed),
        events_(draw_events(choice, shape, n_events)),
        future_(events_),
        definition_(choice, shape.n_layers, events_),
        cache_(make_cache(shape, choice, &future_)),
        model_(cache_.shape(), definition_, slot_classes(shape)) {}

  // Returns how many experts left because their layer gave a slot away.
  int all() {
    for (size_t t = 0; t < events_.size(); ++t) {
      future_.move_to(t);
      access(events_[t]);
      require_same(cache_, model_);
      for (unsigned i = draw(4); i > 0; --i) between();
      require_same(cache_, model_);
    }
    CHECK(cache_.stats().hits == model_.stats.hits);
    CHECK(cache_.stats().partly == model_.stats.partly);
    CHECK(cache_.stats().misses == model_.stats.misses);
    CHECK(cache_.stats().inserts == model_.stats.inserts);
    CHECK(cache_.stats().evictions == model_.stats.evictions);
    return model_.moves;
  }

 private:
  unsigned draw(int below) {
    return static_cast<unsigned>(random_() % static_cast<unsigned>(below));
  }

  // Layers come in any order, except where the policy counts on theirs.
  std::vector<Routing> draw_events(const Choice& choice, const CacheShape& shape, int n) {
    std::vector<Routing> events;
    for (int t = 0; t < n; ++t) {
      const bool in_order = choice.policy == "windowed-belady";
      const int layer = in_order ? t % shape.n_layers : static_cast<int>(draw(shape.n_layers));
      const int tokens = draw(4) == 0 ? 1 + static_cast<int>(draw(6)) : 1;
      const int top_k = static_cast<int>(draw(std::min(shape.n_experts, 3) + 1));
      events.push_back(draw_routing(random_, layer, shape.n_experts, tokens, top_k));
    }
    return events;
  }

  void access(const Routing& routing) {
    const LayerId layer{routing.layer};
    const auto room = static_cast<size_t>(cache_.room_beside(layer, routing.used));
    std::vector<ExpertId> incoming;
    for (const ExpertId e : routing.used) {
      const bool absent = !cache_.find({layer, e}).valid();
      if (absent && incoming.size() < room && draw(3) != 0) incoming.push_back(e);
    }
    model_.access(routing, incoming);
    const auto slots = commit(cache_, routing, incoming);
    for (int l = 0; l < cache_.shape().n_layers; ++l) {
      model_.set_slots(l, cache_.quota(LayerId{l}));
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      REQUIRE(cache_.occupant(slots[i]) == ExpertKey{layer, incoming[i]});
      if (draw(4) != 0) set_pieces(slots[i], cache_.shape().pieces);
    }
  }

  void set_pieces(SlotId slot, int pieces) {
    cache_.set_pieces(slot, pieces, 0);
    model_.find(cache_.occupant(slot))->pieces = pieces;
  }

  void between() {
    const CacheShape& shape = cache_.shape();
    const ExpertKey key{LayerId{static_cast<int>(draw(shape.n_layers))},
                        ExpertId{static_cast<int>(draw(shape.n_experts))}};
    const SlotId slot = cache_.find(key);
    if (!slot.valid()) {
      const bool demand = draw(2) == 0;
      const ExpertCache::Offer offer = cache_.offer(key.layer, demand);
      const Model::Answer want = model_.offer(key.layer.value, demand);
      REQUIRE(offer.free == want.free);
      REQUIRE(offer.slot.valid() == (want.free || want.leaves != nullptr));
      if (want.leaves != nullptr) REQUIRE(cache_.occupant(offer.slot) == want.leaves->key);
      if (!offer.slot.valid() || draw(2) == 0) return;
      cache_.insert(key, offer.slot);
      model_.insert(key, want);
      return;
    }
    Resident* one = model_.find(key);
    const unsigned what = draw(3);
    if (what == 0 && !one->locked) {
      cache_.drop(slot);
      model_.residents.erase(model_.residents.begin() + (one - model_.residents.data()));
    } else if (what == 1) {
      one->protect = !one->protect;
      cache_.protect(slot, one->protect);
    } else {
      set_pieces(slot, one->pieces + static_cast<int>(draw(shape.pieces - one->pieces + 1)));
    }
  }

  std::mt19937 random_;
  std::vector<Routing> events_;
  KnownFuture future_;
  Definition definition_;
  ExpertCache cache_;
  Model model_;
};

CacheShape of(std::vector<int64_t> bytes, int n_experts, int64_t capacity, int pieces,
              PoolShape pool) {
  const auto n_layers = static_cast<int32_t>(bytes.size());
  return {n_layers, n_experts, pieces, std::move(bytes), capacity, pool};
}

void run_many(const std::string& policy, const std::vector<double>& values = {}) {
  uint32_t seed = 0;
  int moves = 0;
  for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer, PoolShape::kAdapted}) {
    for (const CacheShape& shape :
         {of({7}, 1, 7, 1, pool), of({7}, 6, 14, 2, pool), of({7, 7, 7}, 5, 20, 1, pool),
          of({7, 7}, 8, 35, 4, pool), of({7, 9, 7, 9}, 6, 110, 2, pool), of({7, 7}, 4, 56, 1, pool),
          of({3, 7, 3}, 4, 1000, 3, pool)}) {
      Choice choice{policy, values, {}};
      for (Choice& standard : standard_choices(shape.n_layers)) {
        if (standard.policy != policy) continue;
        choice.layer_cost = standard.layer_cost;
        if (values.empty()) choice.values = standard.values;
      }
      CAPTURE(policy, choice.values, seed, static_cast<int>(pool), shape.expert_bytes);
      const int moved = Run(choice, shape, ++seed, 250).all();
      CHECK((moved == 0 || pool == PoolShape::kAdapted));
      moves += moved;
    }
  }
  CHECK(moves > 0);
}

TEST_CASE("after hundreds of random operations LRU holds exactly whom the definition says") {
  run_many("lru");
}

TEST_CASE("after hundreds of random operations layer-LRU holds exactly whom the definition says") {
  run_many("layer-lru");
}

TEST_CASE("after hundreds of random operations LFU holds exactly whom the definition says") {
  run_many("lfu", {0});
}

TEST_CASE("after hundreds of random operations aged LFU holds exactly whom the definition says") {
  run_many("lfu");
  run_many("lfu", {5});
}

TEST_CASE("after hundreds of random operations LFRU holds exactly whom the definition says") {
  run_many("lfru");
  run_many("lfru", {0});
}

TEST_CASE("after hundreds of random operations MRS holds exactly whom the definition says") {
  run_many("mrs");
}

TEST_CASE("after hundreds of random operations two-rate use holds whom the definition says") {
  run_many("ewma");
}

TEST_CASE("after hundreds of random operations cost-aware holds exactly whom the definition says") {
  run_many("cost-aware");
}

TEST_CASE("after hundreds of random operations the learning policy holds whom it values most") {
  run_many("learned");
}

TEST_CASE("after hundreds of random operations Belady holds exactly whom the definition says") {
  run_many("belady");
}

TEST_CASE("after hundreds of random operations a window holds exactly whom the definition says") {
  run_many("windowed-belady");
  for (const double tokens : {0.0, 1.5, 40.0}) {
    run_many("windowed-belady", {tokens, 0.25, 0.01, 0.25});
  }
}

}  // namespace
}  // namespace tandem::test
