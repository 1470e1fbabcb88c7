// Whether this machine has a GPU that the program could use, and why not.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/device/cuda/cuda_plugin_api.h"

namespace tandem {

enum class CudaState : uint8_t {
  kNoPlugin,      // there is no tandem_cuda.so
  kBadPlugin,     // it cannot be opened, or is of another build
  kNoDriver,      // no NVIDIA driver
  kDriverTooOld,  // for the CUDA that the plug-in is built with
  kStubDriver,    // the toolkit's libcuda.so in the place of the driver's
  kNoDevice,      // a driver, and no GPU
  kDeviceTooOld,  // all GPUs are, for the kernels
  kFailed,        // the runtime says something else
  kReady,
};

struct CudaProbe {
  CudaState state = CudaState::kNoPlugin;
  std::string reason;  // one line, without full stop: what was found
  std::vector<CudaDeviceFacts> devices{};
  int device = 0;                      // of these, the one to use: the most memory, else the first
  const CudaPlugin* plugin = nullptr;  // where the state is kReady
  int driver_version = 0;              // of CUDA that the driver supports, 12040 is 12.4; 0: none
  int runtime_version = 0;             // that the plug-in is built with; 0: no plug-in

  const CudaDeviceFacts& chosen() const { return devices[static_cast<size_t>(device)]; }
};
// "12.4"
std::string cuda_version_text(int version);

// Opens the plug-in in `folder`, asks it, and leaves it open. Milliseconds without a driver.
CudaProbe probe_cuda(const std::filesystem::path& folder);
// What CUDA's facts mean.
CudaProbe cuda_state(const CudaFacts& facts);

// Where the program lies, and its plug-in beside it.
std::filesystem::path program_folder();

}  // namespace tandem
