// Decode must not allocate: operator new is counted in this program.
#include <atomic>
#include <cstdlib>
#include <new>

#include "runtime/engine/sampler.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

void* operator new(size_t size) {
  ++allocations;
  if (void* at = std::malloc(size == 0 ? 1 : size)) return at;
  throw std::bad_alloc();
}
void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, size_t) noexcept { std::free(at); }

namespace tandem::test {

TEST_CASE("decoding allocates nothing after the first tokens") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (const EngineSettings& settings : {cpu_settings(), sim_settings(40)}) {
    Engine engine(model, test_machine(), settings);
    Sampler sampler({}, model.config().n_vocab, engine.n_ctx());
    const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535};
    std::span<const float> logits = engine.eval(prompt);
    int64_t before = 0;
    for (int i = 0; i < 100; ++i) {
      if (i == 20) before = allocations;
      const int32_t token = sampler.sample(logits);
      sampler.accept(token);
      logits = engine.eval({&token, 1});
    }
    CHECK(allocations - before == 0);
  }
}

TEST_CASE("the allocation counter counts") {
  const int64_t before = allocations;
  const auto leak = std::make_unique<std::vector<int>>(100);
  CHECK(allocations - before >= 2);
}

}  // namespace tandem::test
