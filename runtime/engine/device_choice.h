// Which device a wish leads to, and why.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/device/cuda_probe.h"
#include "runtime/device/device.h"
#include "runtime/engine/settings.h"
#include "scheduler/machine_profile.h"

namespace tandem {

const char* device_name(DeviceKind kind);
// Of device_name(); kAuto for any other.
DeviceKind device_kind(std::string_view name);

struct DeviceChoice {
  DeviceKind kind;     // never kAuto
  std::string reason;  // why it is this one, or what is to be known of it
  CudaProbe cuda;      // where that was looked at
};

// kAuto: the CPU, as long as nothing here has run on a GPU. ConfigError when kCuda is asked for and
// cannot be. Looks for GPUs once in a process.
DeviceChoice choose_device(DeviceKind requested);

struct OpenDevice {
  std::unique_ptr<Device> device;
  EffectiveSetting setting;  // which was asked for, which it is
};

// As choose_device(), with the settings' memory; and DeviceError or MemoryError when it cannot be
// opened like that.
OpenDevice open_device(const EngineSettings& settings, const MachineProfile& machine);

// The profile that plans and modelled times are made with, and on a real GPU whether it is that
// GPU's. requested: of --machine; empty: the default.
EffectiveSetting machine_setting(const std::string& requested, const MachineProfile& machine,
                                 const DeviceInfo& device);

}  // namespace tandem
