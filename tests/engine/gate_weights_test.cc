// A published runtime lost the pairing of experts and gate weights when cache hits and misses
// mixed: experts on the CPU got other experts' weights. Here every mix of placements is forced
// through one layer and must give what the CPU alone gives.
#include "scheduler/layer_plan.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

// Runs one step; in `layer` the activated experts are placed by `mask`: bit i set means that the
// i-th expert of the plan is fetched and runs on the GPU. Other layers run on the CPU.
std::vector<float> run_with_mask(const Model& model, const std::vector<int32_t>& tokens,
                                 int32_t layer, uint32_t mask) {
  StepHarness harness(model, 64);
  HybridExecutor& exec = harness.executor;
  exec.begin_step({tokens, 0, static_cast<int32_t>(tokens.size())});
  for (LayerId at{0}; at.value < exec.n_layers(); ++at.value) {
    const RoutingDecision& routing = exec.route(at);
    LayerPlan plan;
    for (const ExpertLoad& load : routing.loads) {
      const auto i = static_cast<int32_t>(plan.experts.size());
      const bool fetch = at.value == layer && (mask >> i & 1U) != 0;
      plan.experts.push_back({load.expert, load.first, load.count, {}, 0, 0, fetch ? 1 : 0});
      plan.used.push_back(load.expert);
      if (fetch) plan.fetches.push_back(i);
    }
    plan.use.layer = at;
    plan.use.used = plan.used;
    commit(&plan, &harness.cache);
    exec.run(plan);
  }
  const std::span<const float> logits = exec.end_step();
  return {logits.begin(), logits.end()};
}

}  // namespace

TEST_CASE("gate weights stay with their experts under every mix of hits and misses") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> tokens{4093};  // one token: 4 experts with four different weights
  for (const int32_t layer : {0, 3, 5}) {
    const std::vector<float> expected = run_with_mask(model, tokens, layer, 0);
    for (uint32_t mask = 1; mask < 16; ++mask) {
      INFO("layer " << layer << ", mask " << mask);
      CHECK(relative_error(run_with_mask(model, tokens, layer, mask), expected) <= 1e-5);
    }
  }
}

TEST_CASE("gate weights stay with their experts when several tokens share some of them") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> tokens{4093, 3384, 794, 258, 535, 438, 307, 258};
  const std::vector<float> expected = run_with_mask(model, tokens, 2, 0);
  for (const uint32_t mask : {0x1U, 0x5555U, 0xaaaaU, 0x0ff0U, 0xf00fU, 0x7fffffffU}) {
    INFO("mask " << mask);
    CHECK(relative_error(run_with_mask(model, tokens, 2, mask), expected) <= 1e-5);
  }
}

// The test must be able to fail: the four weights differ, so a swap would show.
TEST_CASE("the gate weights of the test above differ enough to notice a swap") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 4);
  const std::vector<int32_t> tokens{4093};
  harness.executor.begin_step({tokens, 0, 1});
  const RoutingDecision& routing = harness.executor.route(LayerId{0});
  REQUIRE(routing.weights.size() == 4);
  for (size_t i = 1; i < 4; ++i) CHECK(routing.weights[i - 1] > 1.05F * routing.weights[i]);
}

}  // namespace tandem::test
