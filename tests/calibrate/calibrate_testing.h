// What the tests of calibration share: sizes that take milliseconds on emulated kernels.
#pragma once

#include <memory>
#include <string>

#include "runtime/calibrate/measure_gpu.h"
#include "runtime/device/cuda_device.h"
#include "runtime/device/sim_device.h"
#include "tests/engine/fake_cuda.h"

namespace tandem::test {

inline MachineProfile round_machine() {
  MachineProfile m;
  m.name = "round";
  m.description = "a machine of the tests";
  m.cpu = {40, 100, 8};
  m.gpu = {int64_t{1} << 30, 400, 10000, 4};
  m.link = {20, 10, 5};
  m.dram_gbps = 50;
  m.layer_overhead_us = 70;
  return m;
}

inline void nobody_looks(const std::string& /*what*/) {}

// Times of these mean nothing on a device that is not simulated.
inline GpuSettings small_settings() {
  GpuSettings settings;
  settings.repeats = 2;
  settings.warm_up_seconds = 0.001;
  settings.copy_bytes = 1 << 16;
  settings.n_kernels = 4;
  settings.n_layers = 3;
  settings.region_bytes = 1 << 17;
  settings.experts = {256, 256, 1, 1, 0};
  settings.many_experts = 1;
  settings.many_tokens = 9;
  settings.many_groups = 2;
  return settings;
}

inline std::unique_ptr<CudaDevice> open_fake() {
  return std::make_unique<CudaDevice>(round_machine(), FakeCuda::table(), gpu::kEmulatedOps,
                                      FakeCuda::facts(), 0, int64_t{1} << 28);
}

}  // namespace tandem::test
