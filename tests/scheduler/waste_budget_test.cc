#include "scheduler/waste_budget.h"

#include <array>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int32_t kLayers = 10;
constexpr double kMost = 0.2;

// Experts that are offered in turn, each worth one use, and what becomes of them.
struct Offers {
  struct OfKind {
    WasteBudget::Kind kind;
    double used_share;
    int sent = 0;
  };
  struct UnderWay {
    int due;
    size_t of;
    bool used;
    double expected;
  };
  std::array<OfKind, 3> kinds{{{WasteBudget::kind(1, 0.9, 0.3), 0.95},
                               {WasteBudget::kind(1, 0.7, 0.01), 0.6},
                               {WasteBudget::kind(0, 0, 0.1), 0.3}}};
  WasteBudget budget;
  std::vector<UnderWay> under_way;
  std::mt19937_64 random{7};
  int offered = 0;
  int sent = 0;
  int wasted = 0;

  explicit Offers(double most) : budget(most, kLayers) {}

  // One expert that layers ask for in each token, and twelve offers. Who is used is so after a
  // token, who is not is known after thirty.
  void run(int n_tokens) {
    for (int token = 0; token < n_tokens; ++token) {
      budget.token();
      budget.demand(1);
      for (size_t i = 0; i < 12; ++i) offer(i % 3);
      settle();
    }
  }
  void offer(size_t of) {
    ++offered;
    if (budget.price(kinds[of].kind) >= 1) return;
    const bool used = std::uniform_real_distribution<>()(random) < kinds[of].used_share;
    under_way.push_back({offered + (used ? 12 : 360), of, used, budget.send(kinds[of].kind, 1)});
    ++kinds[of].sent;
    ++sent;
  }
  void settle() {
    std::erase_if(under_way, [&](const UnderWay& made) {
      if (made.due > offered) return false;
      if (made.used) {
        budget.used(kinds[made.of].kind, 1, made.expected);
      } else {
        budget.wasted(1, made.expected);
        ++wasted;
      }
      return true;
    });
  }
};

}  // namespace

TEST_CASE("what is wasted stays within the budget, though it is known late") {
  Offers offers(kMost);
  const int n_tokens = 600;
  offers.run(n_tokens);
  const double bytes = offers.sent + n_tokens;
  CHECK(offers.wasted / bytes < kMost);
  // What may be wasted is made use of.
  CHECK(offers.wasted / bytes > 0.75 * kMost);
}

TEST_CASE("the surer kinds are sent first") {
  Offers offers(kMost);
  offers.run(600);
  CHECK(offers.kinds[0].sent > 4 * 590);
  CHECK(offers.kinds[1].sent > 0);
  CHECK(offers.kinds[2].sent < offers.kinds[1].sent);
}

TEST_CASE("a budget of all bytes asks no price") {
  Offers offers(1);
  offers.run(600);
  CHECK(offers.sent == offers.offered);
}

TEST_CASE("what was certain costs nothing, whatever is owed") {
  WasteBudget budget(kMost, kLayers);
  const WasteBudget::Kind kind = WasteBudget::kind(1, 0.5, 0.1);
  for (int i = 0; i < 100; ++i) budget.wasted(1, budget.send(kind, 1));
  CHECK(budget.price(kind) > 1);
  CHECK(budget.price(WasteBudget::kCertain) == 0);
}

TEST_CASE("a debt does not end all transfers for good where nothing earns anything") {
  WasteBudget budget(kMost, kLayers);
  const WasteBudget::Kind kind = WasteBudget::kind(1, 0.5, 0.1);
  for (int i = 0; i < 100; ++i) budget.wasted(1, budget.send(kind, 1));
  REQUIRE(budget.price(kind) > 1);
  for (int token = 0; token < 2000; ++token) budget.token();
  CHECK(budget.price(kind) < 0.01);
}

TEST_CASE("the share that is used is learnt for each kind of transfer") {
  Offers offers(1);
  offers.run(1000);
  for (const Offers::OfKind& kind : offers.kinds) {
    CAPTURE(kind.kind);
    CHECK(offers.budget.used_share(kind.kind) == Approx(kind.used_share).margin(0.05));
  }
}

TEST_CASE("kinds of transfers differ by distance, probability and forecast, within bounds") {
  CHECK(WasteBudget::kind(1, 0.5, 0.1) != WasteBudget::kind(2, 0.5, 0.1));
  CHECK(WasteBudget::kind(1, 0.5, 0.1) != WasteBudget::kind(1, 0.9, 0.1));
  CHECK(WasteBudget::kind(1, 0.5, 0.1) != WasteBudget::kind(1, 0.5, 0.9));
  CHECK(WasteBudget::kind(0, 0.3, 0.1) == WasteBudget::kind(0, 0.9, 0.1));
  const WasteBudget budget(kMost, kLayers);
  for (const double use : {-1.0, 0.0, 1.0, 7.0}) {
    for (const double forecast : {-1.0, 0.0, 1e-300, 1.0, 1e300}) {
      for (const int32_t ahead : {0, 1, 8, 1000}) {
        const double share = budget.used_share(WasteBudget::kind(ahead, use, forecast));
        CHECK((share > 0 && share < 1));
      }
    }
  }
}

}  // namespace tandem::test
