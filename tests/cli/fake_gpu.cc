// A GPU plug-in of the tests' own (tandem_cuda.so of tests/cli/with_gpu): a GPU that does what
// tests/engine/fake_cuda.h does, with emulated kernels. Memory is what a process has.
#include <cstdlib>
#include <string_view>

#include "tests/engine/fake_cuda.h"

namespace {

int64_t number(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoll(text) : otherwise;
}

tandem::SimSchedule schedule() {
  const char* name = std::getenv("FAKE_GPU_SCHEDULE");
  if (name == nullptr) return tandem::SimSchedule::kAtOnce;
  return std::string_view(name) == "late" ? tandem::SimSchedule::kLate
                                          : tandem::SimSchedule::kRandom;
}

// It lives as long as the process: what is left in it then is no leak of the program's.
void look(tandem::CudaFacts* facts) {
  static auto* const kFake = new tandem::test::FakeCuda;
  kFake->set_schedule(schedule(), 1);
  kFake->free_bytes = number("FAKE_GPU_FREE", int64_t{1} << 30);
  kFake->fail_call = number("FAKE_GPU_FAIL_CALL", -1);
  *facts = {};
  facts->driver_version = 13000;
  facts->runtime_version = 13000;
  facts->n_devices = 1;
  facts->devices[0] = tandem::test::FakeCuda::facts();
  facts->devices[0].vram_bytes = kFake->free_bytes;
}

const tandem::CudaPlugin kPlugin = {tandem::kCudaPluginVersion, &look,
                                    &tandem::test::FakeCuda::table(), &tandem::gpu::kEmulatedOps};

}  // namespace

extern "C" __attribute__((visibility("default"))) const tandem::CudaPlugin* tandem_cuda_plugin() {
  return &kPlugin;
}
