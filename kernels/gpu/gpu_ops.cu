#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/gpu_ops.h"

namespace tandem::gpu {

const GpuOps VGPU_OPS = {
    &VGPU_NAMESPACE::pack_x,
    &VGPU_NAMESPACE::product,
};

}  // namespace tandem::gpu
