#include "runtime/engine/memory_plan.h"

#include <vector>

#include "runtime/device/thread_pool.h"

namespace tandem {

MemoryPlan plan_memory(const Model& model, const Device& device, const MachineProfile& machine,
                       const EngineShape& shape, const CacheWish& wish) {
  PlanDevice counter(device, machine);
  ThreadPool alone(1);
  const HybridExecutor executor(model, counter, alone, CostModel(machine), shape, wish);
  MemoryPlan plan;
  const DeviceInfo& info = device.info();
  plan.host_memory = info.host_memory;
  plan.vram_bytes = info.vram_bytes;
  plan.device = counter.device_memory();
  std::erase_if(plan.device, [](const TaggedBytes& part) { return part.tag == kSlotsTag; });
  plan.locked = counter.locked_memory();
  plan.host = counter.host_memory();
  plan.n_slots = executor.n_slots();
  plan.slots_bytes = executor.slots_bytes();
  plan.streams = executor.streams();
  plan.device_bytes = counter.used_bytes();
  const int64_t left = info.vram_bytes - (plan.device_bytes - plan.slots_bytes);
  const ModelConfig& config = model.config();
  plan.slots_as_wished = !wish.slots ||
                         left >= wished_bytes(executor.cache_shape().expert_bytes, *wish.slots) ||
                         plan.n_slots == config.n_layers * config.routing.n_experts;
  return plan;
}

}  // namespace tandem
