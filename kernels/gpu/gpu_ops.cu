#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/gpu_ops.h"

namespace tandem::gpu {

const GpuOps VGPU_OPS = {
    &VGPU_NAMESPACE::pack_x,
    &VGPU_NAMESPACE::product,
    &VGPU_NAMESPACE::product_few,
    &VGPU_NAMESPACE::norm_product,
    &VGPU_NAMESPACE::expert_hidden,
    &VGPU_NAMESPACE::expert_output,
    &VGPU_NAMESPACE::expert_output_few,
    &VGPU_NAMESPACE::residual_norm,
    &VGPU_NAMESPACE::top_experts,
    &VGPU_NAMESPACE::prepare_heads,
    &VGPU_NAMESPACE::attention,
    &VGPU_NAMESPACE::wait_flag,
};

}  // namespace tandem::gpu
