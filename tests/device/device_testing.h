// Small devices on a machine whose modelled times are round numbers.
#pragma once

#include <cstring>
#include <vector>

#include "runtime/device/cpu_device.h"
#include "runtime/device/sim_device.h"

namespace tandem::test {

// CPU 40 GB/s, 100 GFLOP/s; GPU 400 GB/s, 10 TFLOP/s, 4 us a launch; link 20 GB/s to the device,
// 10 GB/s back, 5 us a copy.
inline MachineProfile round_machine() {
  MachineProfile m;
  m.name = "round";
  m.cpu = {40, 100, 8};
  m.gpu = {1 << 20, 400, 10000, 4};
  m.link = {20, 10, 5};
  m.dram_gbps = 50;
  return m;
}

inline constexpr int64_t kVram = 1 << 20;

struct Cpu {
  CpuDevice device{round_machine()};
};

struct Sim {
  SimDevice device{round_machine(), kVram};
};

// A kernel that does nothing, with a modelled time of this many microseconds on the round GPU.
inline Timepoint busy(Device& device, Stream stream, int64_t us) {
  const int64_t bytes = (us - 4) * 400'000;
  return device.launch(stream, {"busy", {}, bytes, 0, [](const KernelScope&) {}});
}

// Host work of so many microseconds that has ended and was waited for.
inline void host_busy(Device& device, double us) {
  const Timepoint done = device.begin_host_work("host work", {}, us);
  device.end_host_work(done);
  device.host_wait(done);
}

template <typename T>
DeviceAddr upload(Device& device, const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  const DeviceAddr at = device.alloc(bytes, "upload");
  device.copy_to_device(Stream::kCopy, at, values.data(), bytes);
  return at;
}

template <typename T>
std::vector<T> download(Device& device, DeviceAddr at, size_t n) {
  std::vector<T> values(n);
  device.copy_to_host(Stream::kCopy, values.data(), at, static_cast<int64_t>(n * sizeof(T)));
  return values;
}

}  // namespace tandem::test
