#include "runtime/engine/device_choice.h"

#include <fmt/format.h>

#include "runtime/error.h"

namespace tandem {

const char* device_name(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kAuto:
      return "auto";
    case DeviceKind::kCpu:
      return "cpu";
    case DeviceKind::kCuda:
      return "cuda";
    case DeviceKind::kSim:
      return "sim";
    case DeviceKind::kSimCuda:
      return "sim-cuda";
  }
  return "?";
}

DeviceChoice choose_device(DeviceKind requested) {
  if (requested != DeviceKind::kAuto && requested != DeviceKind::kCuda) return {requested, "", {}};
  static const CudaProbe cuda = probe_cuda(program_folder());
  const bool ready = cuda.state == CudaState::kReady;
  if (requested == DeviceKind::kCuda) {
    if (ready) return {DeviceKind::kCuda, "", cuda};
    throw ConfigError(
        fmt::format("--device cuda: {}; expected an NVIDIA GPU, or --device cpu", cuda.reason));
  }
  return {DeviceKind::kCpu,
          cuda.reason + (ready ? " is there; --device cuda uses it, which has not been tried on any"
                               : "; --device sim simulates one"),
          cuda};
}

}  // namespace tandem
