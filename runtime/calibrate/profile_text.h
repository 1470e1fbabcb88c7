// A machine profile as a file in configs/machines has it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/calibrate/measure_cpu.h"
#include "runtime/calibrate/measure_gpu.h"
#include "runtime/calibrate/measure_sharing.h"
#include "scheduler/machine_profile.h"

namespace tandem {

struct Calibration {
  std::string cpu_name;
  int n_threads = 0;
  CpuRates cpu;
  std::optional<GpuRates> gpu;  // of a device
  int64_t vram_bytes = 0;       // of that device, all there is
  std::optional<SharedRates> shared;
};

// What was not measured is `base`'s; every figure has its source beside it, and its spread.
std::string profile_text(const Calibration& measured, const MachineProfile& base);

}  // namespace tandem
