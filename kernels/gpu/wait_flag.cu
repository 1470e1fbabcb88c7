// A stream waits for the host by looking at its memory: where there is nothing better
// (runtime/device/hand_over.h).
#include "kernels/gpu/gpu_launchers.h"

namespace VGPU_NAMESPACE {
namespace {

VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(1) wait_flag_kernel(const uint32_t* flag, uint32_t value) {
  while (static_cast<int>(load_of_host(flag) - value) < 0) nap();
}

}  // namespace

void wait_flag(void* stream, const uint32_t* flag, uint32_t value) {
  VGPU_LAUNCH(wait_flag_kernel, dim3(1), dim3(1), 0, stream, flag, value);
}

}  // namespace VGPU_NAMESPACE
