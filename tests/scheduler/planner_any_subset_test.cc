// Not built: these cases fail. They state that the plan is the best of all choices, which
// fetching the heaviest n is not in prefill, by about a percent.
#include <algorithm>

#include "tests/scheduler/planner_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

TEST_CASE("a lighter expert is fetched where the GPU would finish last") {
  Problem p;
  p.cost = {4'000'000, 14'000'000, 3};
  p.experts = {{20, false, 0}, {10, false, 0}};
  p.now = {0, 3000, 0};  // a copy takes 215 us: it hides behind the busy GPU
  p.n_slots = 2;
  // Nothing fetched: CPU until 8 + 2800 + 1400 = 4208. Both fetched: GPU until 3000 + 32 + 18.
  CHECK(makespan(p, 0b00) == Approx(4208));
  CHECK(makespan(p, 0b11) == Approx(3050));
  CHECK(makespan(p, 0b01) == Approx(3032));  // the heavy one: 4 + 28 us on the GPU
  CHECK(makespan(p, 0b10) == Approx(3018));  // the light one: 4 + 14 us, and the CPU until 2808
  const LayerPlan plan = plan_of(p);
  CHECK(std::max(plan.end.cpu, plan.end.gpu) == Approx(3018));
}

}  // namespace
}  // namespace tandem::test
