// What runtime/device/device.h promises, tried on a device: copies, the order of streams, memory.
// What only a wrong program sees (accesses that were not declared, freeing twice) is left to
// tests/device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/device/device.h"
#include "runtime/selftest/check.h"

namespace tandem {

struct DeviceCheckSettings {
  // Host memory, some MiB, that lives longer than the device; its contents are written.
  std::span<std::byte> to_pin;
  // Of copies that others must wait for. A real GPU is busy with this many for milliseconds, so
  // that what does not wait comes too early. Takes twice that of device memory.
  int64_t long_copy_bytes = int64_t{64} << 20;
};

// Errors of the device are checks that fail.
void run_device_checks(Device& device, const DeviceCheckSettings& settings, CheckRun* run);

}  // namespace tandem
