#include "bench/gpu/token_traffic.h"

#include <memory>

#include "bench/gpu/fewest_bytes.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/scheduling_policy.h"
#include "runtime/device/sim_device.h"

namespace tandem {

TokenTraffic token_traffic(const Model& model, int32_t tokens) {
  MachineProfile machine = load_machine_profile(std::string(kDefaultMachine));
  machine.cpu = {0.01, 0.01, 1000, 0};  // no plan wants it
  EngineSettings settings;
  settings.scheduling = load_scheduling_policy(std::string(kDefaultPolicy));
  settings.n_threads = 2;
  settings.n_ctx = tokens + 64;
  SimSettings sim;
  sim.kernels = SimKernels::kEmulated;
  constexpr int64_t kVram = int64_t{64} << 30;  // address space
  auto device = std::make_unique<SimDevice>(machine, kVram, sim);
  SimDevice& gpu = *device;
  const DeviceAddr first = gpu.alloc(1, "where its memory begins");
  vgpu::count_traffic(gpu.seen_by_kernels(first), static_cast<size_t>(kVram));
  Engine engine(model, machine, settings,
                {std::move(device), {"device", "sim-cuda", "sim-cuda", ""}});
  TokenTraffic traffic;
  const int32_t token = 1;
  engine.start_with(engine.hot_set());
  engine.eval({&token, 1});  // captures graphs
  engine.rewind(0);
  vgpu::take_traffic();
  const int64_t before = gpu.kernel_bytes();
  for (int32_t i = 0; i < tokens; ++i) engine.eval({&token, 1});
  traffic.declared = (gpu.kernel_bytes() - before) / tokens;
  traffic.fewest = fewest_bytes(model, settings, tokens);
  traffic.by_kernel = vgpu::take_traffic();
  gpu.free(first);
  return traffic;
}

}  // namespace tandem
