// What memory an engine of some sizes takes, counted by the code that allocates it (PlanDevice).
// Takes no memory itself and reads no weights: a millisecond.
#pragma once

#include <vector>

#include "runtime/device/plan_device.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/engine/hybrid_executor.h"
#include "runtime/model/model.h"
#include "scheduler/machine_profile.h"

namespace tandem {

struct MemoryPlan {
  bool host_memory = false;           // the device computes there and has none of its own
  int64_t vram_bytes = 0;             // that there are
  std::vector<TaggedBytes> device{};  // but expert slots
  std::vector<TaggedBytes> locked{};  // host memory that copies use, page-locked with a real GPU
  std::vector<TaggedBytes> host{};    // host memory of the CPU's experts
  int32_t n_slots = 0;
  int64_t slots_bytes = 0;
  bool streams = false;         // experts without a slot may be fetched, too
  bool slots_as_wished = true;  // a number that was wished for, if any, fits
  int64_t device_bytes = 0;     // all that is in use on the device, slots among it

  bool fits() const { return host_memory || device_bytes <= vram_bytes; }
};

// `device` is the one that the engine will have, with nothing in use; it is not touched. The model
// may be laid out only. ConfigError for sizes that kernels cannot have.
MemoryPlan plan_memory(const Model& model, const Device& device, const MachineProfile& machine,
                       const EngineShape& shape, const CacheWish& wish);

}  // namespace tandem
