// What the program and its GPU plug-in (tandem_cuda.so) share. The plug-in alone is compiled with
// CUDA; it is linked with the static runtime and never with the driver, so that it opens on
// machines without one and can say so.
#pragma once

#include <cstdint>

#include "kernels/gpu/gpu_ops.h"

namespace tandem {

// Plug-in and program are built together: another number is another build.
inline constexpr uint32_t kCudaPluginVersion = 1;
inline constexpr const char* kCudaPluginSymbol = "tandem_cuda_plugin";

inline constexpr int kMostCudaDevices = 16;

struct CudaDeviceFacts {
  char name[256];
  int sm;  // 89 is compute capability 8.9
  int64_t vram_bytes;
};

// As the CUDA runtime says it.
struct CudaFacts {
  int error;           // cudaError_t of counting devices
  char message[256];   // what the runtime calls it
  int driver_version;  // of CUDA that the driver supports, 12040 is 12.4; 0: no driver
  int runtime_version;
  int n_devices;
  CudaDeviceFacts devices[kMostCudaDevices];
};

struct CudaPlugin {
  uint32_t version;
  void (*look)(CudaFacts* facts);
  const gpu::GpuOps* ops;
};

// The one symbol that the plug-in exports.
using CudaPluginFunction = const CudaPlugin* (*)();

}  // namespace tandem
