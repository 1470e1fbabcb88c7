// The sizes of an engine: as asked for, or lowered to what a GPU's memory holds.
#pragma once

#include <string>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/engine/hybrid_executor.h"
#include "runtime/engine/settings.h"
#include "runtime/model/model.h"
#include "scheduler/machine_profile.h"

namespace tandem {

// ConfigError for a number of slots below 0.
CacheWish cache_wish(const EngineSettings& settings);

// What a user can change where memory is too small for this context.
std::string memory_advice(const EngineSettings& settings, const DeviceInfo& device, int64_t n_ctx);

// The line of the expert slots. other_bytes: in use on the device beside them.
EffectiveSetting slots_setting(const EngineSettings& settings, const ModelConfig& config,
                               const DeviceInfo& device, int32_t n_slots, int64_t other_bytes);

// Adds a line each for context and batch. ConfigError for sizes that make no sense. Where nothing
// that may be lowered makes it fit, the smallest sizes allowed: allocating says what is missing.
EngineShape choose_shape(const Model& model, const MachineProfile& machine,
                         const EngineSettings& settings, const Device& device,
                         std::vector<EffectiveSetting>* lines);

}  // namespace tandem
