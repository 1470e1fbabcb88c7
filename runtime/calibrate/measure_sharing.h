// What the host's memory gives when the CPU computes experts while copies to the GPU run: the
// `dram_gbps` of a machine profile. For real devices; a simulated one's copies take no bandwidth.
//
// No real GPU has run this.
#pragma once

#include <cstdint>

#include "runtime/calibrate/cpu_work.h"
#include "runtime/calibrate/measure_cpu.h"
#include "runtime/calibrate/spread.h"
#include "runtime/device/device.h"

namespace tandem {

struct SharingSettings {
  int repeats = 3;
  double seconds = 0.5;            // of a repeat
  double warm_up_seconds = 0.4;    // of copies, before the first
  int64_t copy_bytes = 256 << 20;  // more than caches hold
};

struct SharedRates {
  Spread dram_gbps;  // both together
  Spread cpu_gbps;   // the CPU's experts' part
  Spread link_gbps;
};

// h2d_gbps: of the link alone. MemoryError, DeviceError.
SharedRates measure_sharing(Device& device, CpuWork& work, double h2d_gbps,
                            SharingSettings settings, const OnMeasuring& measuring);

}  // namespace tandem
