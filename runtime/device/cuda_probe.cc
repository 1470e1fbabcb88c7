#include "runtime/device/cuda_probe.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <system_error>

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Of cudaError_t (CUDA Runtime API, "Error Handling"). As seen without a driver: counting devices
// gives 35 and not 100, and the driver's version is 0.
constexpr int kSuccess = 0;
constexpr int kStubLibrary = 34;
constexpr int kInsufficientDriver = 35;
constexpr int kNoDevice = 100;

constexpr int kLeastSm = 80;  // for mma of 32 int8, bf16 in tensor cores, cp.async

// Of those that the kernels are made for, the one with most memory; -1: there is none.
int best_device(const std::vector<CudaDeviceFacts>& devices) {
  int best = -1;
  for (int i = 0; i < static_cast<int>(devices.size()); ++i) {
    const CudaDeviceFacts& device = devices[static_cast<size_t>(i)];
    if (device.sm < kLeastSm) continue;
    if (best < 0 || device.vram_bytes > devices[static_cast<size_t>(best)].vram_bytes) best = i;
  }
  return best;
}

void choose(CudaProbe* probe) {
  if (probe->devices.empty()) {
    probe->state = CudaState::kNoDevice;
    probe->reason = "the NVIDIA driver finds no GPU";
    return;
  }
  const int best = best_device(probe->devices);
  if (best < 0) {
    const CudaDeviceFacts& first = probe->devices.front();
    probe->state = CudaState::kDeviceTooOld;
    probe->reason =
        fmt::format("GPU {} has compute capability {}.{}, and {}.{} is needed", first.name,
                    first.sm / 10, first.sm % 10, kLeastSm / 10, kLeastSm % 10);
    return;
  }
  probe->device = best;
  probe->state = CudaState::kReady;
  probe->reason = std::string("GPU ") + probe->chosen().name;
}

}  // namespace

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

CudaProbe cuda_state(const CudaFacts& facts) {
  CudaProbe probe;
  probe.driver_version = facts.driver_version;
  probe.runtime_version = facts.runtime_version;
  const int n = std::clamp(facts.n_devices, 0, kMostCudaDevices);
  switch (facts.error) {
    case kSuccess:
      probe.devices.assign(facts.devices, facts.devices + n);
      choose(&probe);
      return probe;
    case kStubLibrary:
      probe.state = CudaState::kStubDriver;
      probe.reason =
          "the CUDA toolkit's stub stands in the place of the NVIDIA driver's libcuda.so.1";
      return probe;
    case kInsufficientDriver:
      if (facts.driver_version == 0) {
        probe.state = CudaState::kNoDriver;
        probe.reason = "there is no NVIDIA driver";
      } else {
        probe.state = CudaState::kDriverTooOld;
        probe.reason = fmt::format("the NVIDIA driver supports CUDA {}, and {} is needed",
                                   cuda_version_text(facts.driver_version),
                                   cuda_version_text(facts.runtime_version));
      }
      return probe;
    case kNoDevice:
      probe.state = CudaState::kNoDevice;
      probe.reason = "the NVIDIA driver finds no GPU";
      return probe;
    default:
      probe.state = CudaState::kFailed;
      probe.reason = fmt::format("CUDA error {}: {}", facts.error, facts.message);
      return probe;
  }
}

CudaProbe probe_cuda(const fs::path& folder) {
  const fs::path file = folder / "tandem_cuda.so";
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    return {CudaState::kNoPlugin, "built without CUDA: there is no tandem_cuda.so"};
  }
  void* plugin = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin == nullptr) return {CudaState::kBadPlugin, dlerror()};
  const auto function = reinterpret_cast<CudaPluginFunction>(dlsym(plugin, kCudaPluginSymbol));
  const CudaPlugin* api = function != nullptr ? function() : nullptr;
  if (api == nullptr || api->version != kCudaPluginVersion) {
    return {CudaState::kBadPlugin, "tandem_cuda.so is of another build"};
  }
  CudaFacts facts{};
  api->look(&facts);
  CudaProbe probe = cuda_state(facts);
  if (probe.state == CudaState::kReady) probe.plugin = api;
  return probe;
}

fs::path program_folder() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path(".") : program.parent_path();
}

}  // namespace tandem
