#include "runtime/device/cuda_probe.h"

#include <cstdio>
#include <fstream>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

CudaFacts facts(int error, int driver_version, int n_devices = 0) {
  CudaFacts f{};
  f.error = error;
  f.driver_version = driver_version;
  f.runtime_version = 13000;
  f.n_devices = n_devices;
  std::snprintf(f.message, sizeof f.message, "what CUDA calls it");
  for (int i = 0; i < n_devices && i < kMostCudaDevices; ++i) {
    std::snprintf(f.devices[i].name, sizeof f.devices[i].name, "Card %d", i);
    f.devices[i].sm = 89;
    f.devices[i].vram_bytes = int64_t{8} << 30;
  }
  return f;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("what CUDA says of a machine without a usable GPU becomes one clear line") {
  struct Row {
    CudaFacts facts;
    CudaState state;
    const char* part;
  };
  const Row rows[] = {
      {facts(35, 0), CudaState::kNoDriver, "no NVIDIA driver"},
      {facts(35, 12040), CudaState::kDriverTooOld, "supports CUDA 12.4, and 13.0 is needed"},
      {facts(34, 13000), CudaState::kStubDriver, "stub"},
      {facts(100, 13000), CudaState::kNoDevice, "finds no GPU"},
      {facts(0, 13000, 0), CudaState::kNoDevice, "finds no GPU"},
      {facts(999, 13000), CudaState::kFailed, "CUDA error 999: what CUDA calls it"},
  };
  for (const Row& row : rows) {
    const CudaProbe probe = cuda_state(row.facts);
    INFO(probe.reason);
    CHECK(probe.state == row.state);
    CHECK(contains(probe.reason, row.part));
    CHECK(probe.devices.empty());
  }
}

TEST_CASE("GPUs that CUDA finds are listed, as many as a plug-in may say") {
  const CudaProbe two = cuda_state(facts(0, 13000, 2));
  CHECK(two.state == CudaState::kReady);
  REQUIRE(two.devices.size() == 2);
  CHECK(two.reason == "GPU Card 0");
  CHECK(two.driver_version == 13000);
  CHECK(cuda_version_text(two.runtime_version) == "13.0");
  CHECK(cuda_state(facts(0, 13000, 1000)).devices.size() == kMostCudaDevices);
}

TEST_CASE("GPUs that kernels are not made for are refused by name, and passed over") {
  CudaFacts f = facts(0, 13000, 3);
  f.devices[0].sm = 75;
  f.devices[1].sm = 61;
  f.devices[2].sm = 70;
  const CudaProbe none = cuda_state(f);
  CHECK(none.state == CudaState::kDeviceTooOld);
  CHECK(none.reason == "GPU Card 0 has compute capability 7.5, and 8.0 is needed");
  f.devices[2].sm = 80;
  const CudaProbe third = cuda_state(f);
  CHECK(third.state == CudaState::kReady);
  CHECK(third.device == 2);
  CHECK(third.reason == "GPU Card 2");
}

TEST_CASE("of several GPUs the one with most memory is used, of equal ones the first") {
  CudaFacts f = facts(0, 13000, 3);
  CHECK(cuda_state(f).device == 0);
  f.devices[1].vram_bytes = int64_t{24} << 30;
  f.devices[2].vram_bytes = int64_t{24} << 30;
  CHECK(cuda_state(f).device == 1);
}

TEST_CASE("without a plug-in there is no GPU, and one that is none is told apart") {
  const TempDir dir;
  CHECK(probe_cuda(dir.path()).state == CudaState::kNoPlugin);
  std::ofstream(dir / "tandem_cuda.so") << "not a library";
  const CudaProbe bad = probe_cuda(dir.path());
  CHECK(bad.state == CudaState::kBadPlugin);
  CHECK(contains(bad.reason, "tandem_cuda.so"));
}

TEST_CASE("the plug-in of this build opens where there is no driver, and says so") {
  const CudaProbe probe = probe_cuda(program_folder());
  if (probe.state == CudaState::kNoPlugin) {
    WARN("skipped: built without CUDA");
    return;
  }
  INFO(probe.reason);
  CHECK(probe.state != CudaState::kBadPlugin);
  CHECK((probe.state == CudaState::kReady) == !probe.devices.empty());
  CHECK_FALSE(probe.reason.empty());
}

}  // namespace tandem::test
