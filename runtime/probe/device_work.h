// Work on a device that is timed, by selftest's probe and by calibration: copies, the smallest
// kernel, a layer's hand-over, weights that a kernel reads. A device that has no kernels, because
// host code would compute, computes nothing here: its times are modelled from what is declared.
//
// Each piece of work owns its memory on both sides, may be repeated, and is used by the thread that
// calls the device, which outlives it. MemoryError where there is no room, DeviceError.
#pragma once

#include <cstdint>

#include "runtime/device/device.h"
#include "runtime/device/host_array.h"
#include "runtime/probe/device_memory.h"

namespace tandem {

// Microseconds: the host's clock, since what a step waits for is what the host sees; of a
// simulated device, the modelled one.
double now_us(const Device& device);

// Page-locked host memory, and as much on the device.
class PinnedCopy {
 public:
  PinnedCopy(Device& device, int64_t bytes, const char* tag);
  // Enqueues; the caller waits.
  Timepoint start_to_device(Stream stream = Stream::kCopy);
  Timepoint start_to_host(Stream stream = Stream::kCopy);
  int64_t bytes() const { return host_.size(); }

 private:
  Device& device_;
  DeviceMemory memory_;
  HostArray<uint8_t> host_;
  DeviceArray<uint8_t> at_;
};

// A kernel that adds two numbers.
class TinyKernel {
 public:
  TinyKernel(Device& device, const char* tag);
  Timepoint launch(bool marked = true) { return launch_on(x_.at, marked); }
  // The same, its first number read at x.
  Timepoint launch_on(DeviceAddr x, bool marked);

 private:
  Device& device_;
  DeviceMemory memory_;
  DeviceArray<float> x_;
  DeviceArray<float> y_;
};

// What a layer costs beside its work: 8 KiB to the host, which waits; 8 KiB back; a tiny kernel.
class RoundTrip {
 public:
  RoundTrip(Device& device, const char* tag);
  // Returns the kernel, for which nobody has waited.
  Timepoint layer();

 private:
  Device& device_;
  DeviceMemory memory_;
  HostArray<uint8_t> host_;
  DeviceArray<float> x_;
  TinyKernel kernel_;
};

// A product of a matrix of about weight_bytes with n_tokens tokens. Its values are undefined.
class ProductRead {
 public:
  static constexpr int kCols = 4096;
  ProductRead(Device& device, DType type, int64_t weight_bytes, int n_tokens, const char* tag);
  Timepoint launch();
  int64_t weight_bytes() const { return w_.bytes.n; }

 private:
  Device& device_;
  DType type_;
  int n_tokens_;
  DeviceMemory memory_;
  DeviceMatrix w_;
  DeviceActivations x_;
  DeviceArray<float> y_;
};

// An idle link runs slowly, and takes some hundred milliseconds of copies to be at its speed.
struct WarmUp {
  double seconds = 0;  // 0: nothing was warmed up
  int64_t bytes = 0;   // copied to the device
};
// Copies for so long, by the host's clock. On a simulated device there is nothing to warm up.
WarmUp warm_up_link(Device& device, double seconds, const char* tag);

}  // namespace tandem
