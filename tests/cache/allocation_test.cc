// The step loop must not allocate.
#include <new>
#include <vector>

#include "tests/cache/cache_testing.h"
#include "tests/cache/policy_definitions.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {
namespace {

TEST_CASE("no policy and no operation of a cache allocates after construction") {
  std::mt19937 random(3);
  std::vector<Routing> trace;
  trace.reserve(200);
  for (int t = 0; t < 200; ++t) {
    trace.push_back(draw_routing(random, t % 4, 8, 1 + t % 3, 2));
  }
  KnownFuture future(trace);
  for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer, PoolShape::kAdapted}) {
    for (const Choice& choice : standard_choices(4)) {
      CAPTURE(choice.policy);
      ExpertCache cache = make_cache({4, 8, 2, {7, 9, 7, 9}, 100, pool}, choice, &future);
      std::vector<ExpertId> incoming;
      std::vector<SlotId> slots(8);
      incoming.reserve(8);

      const int64_t before = allocation_count;
      for (size_t t = 0; t < trace.size(); ++t) {
        future.move_to(t);
        const LayerId layer{trace[t].layer};
        incoming.clear();
        const int32_t room = cache.room_beside(layer, trace[t].used);
        for (const ExpertId e : trace[t].used) {
          const bool absent = !cache.find({layer, e}).valid();
          if (absent && static_cast<int32_t>(incoming.size()) < room) incoming.push_back(e);
        }
        cache.commit({trace[t].use(), incoming, std::span(slots).first(incoming.size())});
        const ExpertKey next{LayerId{(layer.value + 1) % 4}, ExpertId{static_cast<int>(t % 8)}};
        SlotId slot = cache.find(next);
        if (!slot.valid()) slot = bring(cache, next);
        if (!slot.valid()) continue;
        cache.set_pieces(slot, 2, 1.0);
        cache.protect(slot, t % 3 == 0);
        if (t % 5 == 0) cache.drop(slot);
      }
      if (kCountsAllocations) CHECK(allocation_count - before == 0);
      CHECK(cache.stats().evictions > 0);
    }
  }
}

TEST_CASE("an allocation would have been counted") {
  const int64_t before = allocation_count;
  ::operator delete(::operator new(1));
  if (kCountsAllocations) CHECK(allocation_count - before == 1);
}

}  // namespace
}  // namespace tandem::test
