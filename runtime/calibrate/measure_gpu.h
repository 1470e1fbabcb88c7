// What a machine profile says of GPU and link, measured through a device: with the expert kernels
// that a model would run, and with copies as the engine makes them. On a simulated device times are
// the modelled ones, so that what comes out is the profile that it was given.
//
// No real GPU has run this: a simulated one and the tests' stand-in for CUDA have.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/calibrate/gpu_experts.h"
#include "runtime/calibrate/measure_cpu.h"
#include "runtime/calibrate/spread.h"
#include "runtime/device/device.h"
#include "runtime/probe/device_work.h"

namespace tandem {

struct GpuSettings {
  int repeats = 9;
  // Of copies before the link is measured, and of experts before kernels are, by the host's clock.
  double warm_up_seconds = 0.4;
  int64_t copy_bytes = int64_t{256} << 20;
  int n_kernels = 200;                             // tiny ones in a chain
  int n_layers = 32;                               // hand-overs in a chain
  int64_t region_bytes = int64_t{512} << 20;       // of weights, more than caches hold
  GpuExperts::Shape experts{2048, 1024, 8, 1, 0};  // groups: as many as the region holds
  // The same where arithmetic is the limit.
  int many_experts = 8;
  int many_tokens = 256;  // of each
  int many_groups = 3;
};

// Enough for times that are computed, and little to emulate.
GpuSettings simulated_gpu_settings();

struct GpuRates {
  std::string gpu;        // the device's description
  bool modelled = false;  // times are those of a simulation
  Spread h2d_gbps;        // page-locked, large copies
  Spread d2h_gbps;
  // From a small copy's start until a kernel that waits for it may start.
  Spread latency_us;
  Spread launch_us;        // of a kernel in a chain of tiny ones
  Spread read_gbps;        // experts of one token, launches taken off
  Spread gflops;           // experts of many tokens, likewise; a multiply-add is two
  bool many_read = false;  // many tokens took hardly longer than reading: gflops is a lower bound
  Spread product_gbps;     // one large BF16 product of one token: the fastest that we read
  // Of a layer, without its kernel: 8 KiB to the host, which waits, 8 KiB back. Not of a
  // simulation.
  Spread hand_over_us;
  WarmUp link_warm_up;
  double kernels_warm_up_seconds = 0;
  GpuSettings settings;  // what was used: less where the device has little memory
};

// Some seconds on a real GPU, and a GiB of its memory at most. MemoryError, DeviceError.
GpuRates measure_gpu(Device& device, GpuSettings settings, const OnMeasuring& measuring);

}  // namespace tandem
