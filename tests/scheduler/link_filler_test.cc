#include "scheduler/link_filler.h"

#include <cmath>
#include <vector>

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int32_t kPieces = 4;

// Two layers of four experts, which share one slot.
struct OneSlot {
  std::vector<ExpertCost> costs = std::vector<ExpertCost>(2, {4'000'000, 1000, kPieces});
  ExpertCache cache{{2, 4, kPieces, {4'000'000, 4'000'000}, 4'000'000},
                    make_eviction_policy("lru", {2, 4, nullptr, {}})};
  LinkFiller filler{CostModel(round_machine()), costs, cache, 0};
};

}  // namespace

TEST_CASE("an expert that gets the slot of one just copied is copied as itself") {
  OneSlot parts;
  ExpertCache& cache = parts.cache;
  LinkFiller& filler = parts.filler;
  CopyingExecutor exec;
  LayerPlan plan;
  plan.use.layer = LayerId{0};
  plan.pieces = kPieces;
  // The CPU is busy for a second, which is idle time of the link.
  filler.open(plan, cache, {1e6, 0, 0});

  const ExpertKey first{LayerId{1}, ExpertId{2}};
  const ExpertKey second{LayerId{1}, ExpertId{3}};
  for (const ExpertKey key : {first, second}) {
    const ExpertCache::Offer offer = cache.offer(key.layer);
    REQUIRE(offer.slot == SlotId{0});
    filler.start(key, offer, &cache);
    for (int32_t i = 0; i < kPieces; ++i) REQUIRE(filler.send(key, offer.slot, &cache));
  }
  filler.close(&cache, &exec);

  REQUIRE(exec.copied.size() == 2);
  CHECK(exec.copied[0].key == first);
  CHECK(exec.copied[0].n_pieces == kPieces);
  CHECK(exec.copied[1].key == second);
  CHECK(exec.copied[1].first_piece == 0);
  CHECK(exec.copied[1].n_pieces == kPieces);
}

TEST_CASE("how long the link would take for what a token misses is known after a token") {
  OneSlot parts;
  ExpertCache& cache = parts.cache;
  LinkFiller& filler = parts.filler;
  LayerPlan plan;
  plan.pieces = kPieces;
  // One expert runs on the GPU; three pieces of another are the CPU's, and three of a third, of
  // which one had come. All pieces of an expert take the link 200 us.
  plan.experts.resize(3);
  plan.experts[0].gpu = kPieces;
  plan.experts[1].gpu = 1;
  plan.experts[2].present = 1;
  CHECK(std::isinf(filler.tokens_of_misses()));
  plan.use.layer = LayerId{0};
  // The link is busy for 600 of 1000 us, then for 800.
  plan.start = {0, 0, 0};
  filler.open(plan, cache, {1000, 0, 600});
  CHECK(std::isinf(filler.tokens_of_misses()));
  plan.use.layer = LayerId{1};
  plan.start = {1000, 1000, 1000};
  filler.open(plan, cache, {2000, 0, 1800});
  // It was idle for 600 us, and twelve pieces take 600.
  CHECK(filler.tokens_of_misses() == Approx(1));
}

}  // namespace tandem::test
