// A machine profile as a file in configs/machines has it.
#pragma once

#include <string>

#include "runtime/calibrate/measure_cpu.h"
#include "scheduler/machine_profile.h"

namespace tandem {

// The CPU's part as measured on `cpu` with n_threads; GPU and link are `base`'s.
std::string profile_text(const CpuRates& rates, const MachineProfile& base, const std::string& cpu,
                         int n_threads);

}  // namespace tandem
