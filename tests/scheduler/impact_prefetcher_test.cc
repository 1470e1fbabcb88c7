#include "scheduler/impact_prefetcher.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int32_t kPieces = 4;

// Says of the next layer's expert 2 alone that it is used, with this probability.
class OneGuess final : public Predictor {
 public:
  explicit OneGuess(float use) : use_(use) {}
  void observe(const RoutingDecision& /*routing*/) override {}
  bool predict(int32_t ahead, std::span<float> loads) const override {
    if (ahead != 1) return false;
    std::fill(loads.begin(), loads.end(), 0.0F);
    loads[2] = use_;
    return true;
  }

 private:
  float use_;
};

// Two layers with room for all experts of both; expert 2 of the next layer is guessed.
struct Guessing {
  std::vector<ExpertCost> costs = std::vector<ExpertCost>(2, {4'000'000, 1000, kPieces});
  ExpertCache cache{{2, 4, kPieces, {4'000'000, 4'000'000}, 32'000'000},
                    make_eviction_policy("lru", {2, 4, nullptr, {}})};
  ImpactPrefetcher prefetcher;

  explicit Guessing(float use, const PrefetchSettings& settings = {})
      : prefetcher(CostModel(round_machine()), costs, cache, std::make_unique<OneGuess>(use),
                   settings) {}

  // What is copied behind a layer that uses expert 0.
  std::vector<CopySlice> copied_behind(int layer, const Clocks& clocks) {
    CopyingExecutor exec(clocks);
    const Loads routing(layer, {1, 0, 0, 0});
    LayerPlan plan;
    plan.use.layer = LayerId{layer};
    plan.pieces = kPieces;
    prefetcher.observe(routing.decision, cache);
    prefetcher.prefetch(plan, cache, exec);
    return exec.copied;
  }
};

constexpr Clocks kIdleLink{1e6, 0, 0};
constexpr Clocks kBusyLink{0, 0, 1e6};

std::vector<CopySlice> copied_for(float use, const PrefetchSettings& settings = {}) {
  return Guessing(use, settings).copied_behind(0, kIdleLink);
}

}  // namespace

TEST_CASE("a likely guess is fetched, an unlikely one is not, even where the link is idle") {
  const std::vector<CopySlice> likely = copied_for(0.2F);
  REQUIRE(likely.size() == 1);
  CHECK(likely[0].key == ExpertKey{LayerId{1}, ExpertId{2}});
  CHECK(likely[0].n_pieces == kPieces);
  CHECK(copied_for(0.1F).empty());
}

TEST_CASE("how likely a guess must be to be fetched is the policy's to say") {
  PrefetchSettings careful;
  careful.least_guess = 0.6;
  CHECK(copied_for(0.5F, careful).empty());
  CHECK(copied_for(0.9F, careful).size() == 1);
}

TEST_CASE("guesses of absent experts are believed as far as such guesses came true") {
  Guessing wrong(0.6F);
  for (int token = 0; token < 300; ++token) {
    CHECK(wrong.copied_behind(0, kBusyLink).empty());
    CHECK(wrong.copied_behind(1, kBusyLink).empty());
  }
  CHECK(wrong.copied_behind(0, kIdleLink).empty());
}

}  // namespace tandem::test
