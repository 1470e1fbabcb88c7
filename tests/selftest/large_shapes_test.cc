// The shapes that a real GPU is tried with and `--device sim-cuda` is not, because they take long.
#include "runtime/selftest/kernel_checks.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

}  // namespace

TEST_CASE("the emulated kernels pass the checks with the shapes of real models, too") {
  if (kSanitized) {
    WARN("skipped: minutes under a sanitizer, which the small shapes have been through");
    return;
  }
  SimDevice device(some_machine(), int64_t{512} << 20, emulated());
  Results results;
  CheckRun run = results.run();
  run_kernel_checks(device, gpu::kEmulatedOps, {true}, &run);
  CHECK(results.failed() == std::vector<std::string>{});
}

}  // namespace tandem::test
