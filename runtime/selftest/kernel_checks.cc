#include "runtime/selftest/kernel_checks.h"

#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

constexpr void (*kOpChecks[])(const OpContext&) = {
    check_pack_x,        check_product,       check_product_few,       check_norm_product,
    check_expert_hidden, check_expert_output, check_expert_output_few, check_residual_norm,
    check_top_experts,   check_prepare_heads, check_attention,         check_wait_flag,
};
static_assert(sizeof(gpu::GpuOps) == sizeof kOpChecks,
              "each function of GpuOps has a check in this list");

}  // namespace

void run_kernel_checks(Device& device, const gpu::GpuOps& ops, const KernelCheckSettings& settings,
                       CheckRun* run) {
  const OpContext context{device, ops, settings.large, *run};
  for (const auto check : kOpChecks) check(context);
}

}  // namespace tandem
