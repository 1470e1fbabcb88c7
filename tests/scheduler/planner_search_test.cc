// The planner against exhaustive search on small random problems.
//
// What the planner promises is the best number n of fetched experts, heaviest first. Among all
// subsets another choice can be better: swapping a fetched expert for a lighter one saves the
// difference of their times on the GPU. That happens only where arithmetic rules the GPU's time
// (prefill), and costs about a percent; see the last case.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/scheduler/planner_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Rates in the region of the built-in profiles.
std::vector<MachineProfile> machines() {
  MachineProfile slow = round_machine();
  slow.cpu = {40, 380, 8};
  slow.gpu = {int64_t{12} << 30, 300, 25000, 4};
  slow.link = {25, 25, 8};
  MachineProfile fast = round_machine();
  fast.cpu = {68, 1150, 8};
  fast.gpu = {int64_t{24} << 30, 850, 82000, 3};
  fast.link = {25, 25, 7};
  return {round_machine(), slow, fast};
}

struct Best {
  ModelTime prefix;  // of the choices that fetch the heaviest n
  int n_fetch;       // the smallest n that reaches it
  ModelTime any_subset;
};

Best search(const Problem& p) {
  const auto absent = heaviest_first(p, false).size();
  Best best{makespan(p, 0), 0, makespan(p, 0)};
  for (uint32_t fetch = 1; fetch < 1U << absent; ++fetch) {
    const int n = __builtin_popcount(fetch);
    if (n > room(p)) continue;
    const ModelTime end = makespan(p, fetch);
    best.any_subset = std::min(best.any_subset, end);
    const bool is_prefix = (fetch & (fetch + 1)) == 0;
    if (is_prefix && end < best.prefix) {
      best.prefix = end;
      best.n_fetch = n;
    }
  }
  return best;
}

// Calls compare(problem, plan's makespan, plan, best) for many problems on each machine.
template <typename Compare>
void for_problems(int most_tokens, int n, Compare compare) {
  uint32_t seed = 1;
  for (const MachineProfile& machine : machines()) {
    std::mt19937 random(seed++);
    for (int i = 0; i < n; ++i) {
      const Problem p = random_problem(random, machine, most_tokens);
      const LayerPlan plan = plan_of(p);
      compare(p, std::max(plan.end.cpu, plan.end.gpu), plan, search(p));
    }
  }
}

TEST_CASE("the plan's makespan is the smallest of all that fetch the heaviest n") {
  int fetching = 0;
  for (const int most_tokens : {1, 4, 64, 512}) {
    for_problems(most_tokens, 500,
                 [&](const Problem&, ModelTime got, const LayerPlan& plan, const Best& best) {
                   REQUIRE(got == Approx(best.prefix).epsilon(1e-12));
                   fetching += plan.n_fetch > 0 ? 1 : 0;
                 });
  }
  CHECK(fetching > 500);
}

TEST_CASE("of equally good numbers the plan fetches the smallest") {
  for_problems(64, 500, [&](const Problem& p, ModelTime, const LayerPlan& plan, const Best& best) {
    if (plan.n_fetch == best.n_fetch) return;
    // Only the last bits of a sum may tell the planner and the search apart.
    REQUIRE(makespan(p, (1U << plan.n_fetch) - 1) == Approx(best.prefix).epsilon(1e-12));
  });
}

TEST_CASE("while decoding one token no choice of experts to fetch is better than the plan's") {
  for_problems(1, 2000, [](const Problem&, ModelTime got, const LayerPlan&, const Best& best) {
    REQUIRE(got == Approx(best.any_subset).epsilon(1e-12));
  });
}

TEST_CASE("in prefill no choice of experts to fetch shortens the layer by more than 2 percent") {
  for (const int most_tokens : {64, 512}) {
    for_problems(most_tokens, 1000,
                 [](const Problem& p, ModelTime got, const LayerPlan&, const Best& best) {
                   const ModelTime start = std::min({p.now.cpu, p.now.gpu, p.now.link});
                   REQUIRE(got - start <= (best.any_subset - start) * 1.02);
                 });
  }
}

}  // namespace
}  // namespace tandem::test
