#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>

#include "runtime/device/cuda/cuda_plugin_api.h"

namespace tandem {
namespace {

// Makes no context: that takes memory of the GPU, and time.
void look(CudaFacts* facts) {
  *facts = {};
  (void)cudaDriverGetVersion(&facts->driver_version);
  (void)cudaRuntimeGetVersion(&facts->runtime_version);
  int n = 0;  // left as it is where there is no driver
  const cudaError_t counted = cudaGetDeviceCount(&n);
  facts->error = static_cast<int>(counted);
  std::snprintf(facts->message, sizeof facts->message, "%s", cudaGetErrorString(counted));
  (void)cudaGetLastError();
  if (counted != cudaSuccess) return;
  for (int i = 0; i < std::min(n, kMostCudaDevices); ++i) {
    cudaDeviceProp properties{};
    const cudaError_t error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) {
      facts->error = static_cast<int>(error);
      std::snprintf(facts->message, sizeof facts->message, "device %d: %s", i,
                    cudaGetErrorString(error));
      (void)cudaGetLastError();
      return;
    }
    CudaDeviceFacts& device = facts->devices[facts->n_devices++];
    std::snprintf(device.name, sizeof device.name, "%s", properties.name);
    device.sm = 10 * properties.major + properties.minor;
    device.vram_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  }
}

constexpr CudaPlugin kPlugin = {kCudaPluginVersion, &look, &gpu::kCudaOps};

}  // namespace
}  // namespace tandem

extern "C" __attribute__((visibility("default"))) const tandem::CudaPlugin* tandem_cuda_plugin() {
  return &tandem::kPlugin;
}
