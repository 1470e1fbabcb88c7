#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/gpu_ops.h"

namespace tandem::gpu {

const GpuOps VGPU_OPS = {
    &VGPU_NAMESPACE::pack_x,        &VGPU_NAMESPACE::product,   &VGPU_NAMESPACE::expert_hidden,
    &VGPU_NAMESPACE::expert_output, &VGPU_NAMESPACE::combine,   &VGPU_NAMESPACE::rms_norm,
    &VGPU_NAMESPACE::add,           &VGPU_NAMESPACE::clamp,     &VGPU_NAMESPACE::rope,
    &VGPU_NAMESPACE::kv_append,     &VGPU_NAMESPACE::attention,
};

}  // namespace tandem::gpu
