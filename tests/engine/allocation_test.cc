// Decode must not allocate.
#include <memory>
#include <vector>

#include "runtime/engine/sampler.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {

TEST_CASE("decoding allocates nothing after the first tokens") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (EngineSettings settings : {cpu_settings(), sim_settings(40)}) {
    settings.sim.check_hazards = false;  // which keeps records
    Engine engine(model, test_machine(), settings);
    Sampler sampler({}, model.config().n_vocab, engine.n_ctx());
    const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535};
    std::span<const float> logits = engine.eval(prompt);
    int64_t before = 0;
    for (int i = 0; i < 100; ++i) {
      if (i == 20) before = allocation_count;
      const int32_t token = sampler.sample(logits);
      sampler.accept(token);
      logits = engine.eval({&token, 1});
    }
    CHECK(allocation_count - before == 0);
  }
}

TEST_CASE("the allocation counter counts") {
  const int64_t before = allocation_count;
  const auto held = std::make_unique<std::vector<int>>(100);
  CHECK((allocation_count - before >= 2) == kCountsAllocations);
}

}  // namespace tandem::test
