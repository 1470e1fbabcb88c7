// Every GPU kernel of a table, on a device, beside float64 on the host: all types of weights, odd
// shapes, a fixed seed. The list of operations is in kernel_checks.cc, and must name all of the
// table.
//
// Tolerances follow from the arithmetic. A sum of n products in f32, in any order, is off by at
// most n + 1 roundings of the sum of the products' magnitudes; tensor cores cut off where others
// round, so a rounding counts 2^-23 of that, not 2^-24. What functions of sums add is said where
// they are checked. Random inputs stay a few hundred times below that in practice, and a wrong
// scale, row or position is as far above it.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "runtime/device/device.h"
#include "runtime/selftest/check.h"

namespace tandem {

struct KernelCheckSettings {
  bool large = false;  // shapes of real models, too, which an emulation has no time for
};

// Launches functions of `ops`, which must be for this device's streams: device.kernels(), or a
// table that a test has changed. Takes some 100 MiB of device memory at most. Errors of the device
// are checks that fail.
void run_kernel_checks(Device& device, const gpu::GpuOps& ops, const KernelCheckSettings& settings,
                       CheckRun* run);

}  // namespace tandem
