// What the tests of the selftest share: devices that are right, and one that passes all on to
// another so that a test can make it wrong.
#pragma once

#include <string>
#include <vector>

#include "runtime/device/sim_device.h"
#include "runtime/selftest/check.h"

namespace tandem::test {

inline MachineProfile some_machine() {
  MachineProfile m;
  m.name = "some";
  m.cpu = {40, 100, 8};
  m.gpu = {int64_t{1} << 30, 400, 10000, 4};
  m.link = {20, 10, 5};
  m.dram_gbps = 50;
  return m;
}

inline constexpr int64_t kSomeVram = int64_t{64} << 20;

inline SimSettings emulated() {
  SimSettings settings;
  settings.kernels = SimKernels::kEmulated;
  return settings;
}

struct Results {
  std::vector<Check> checks;

  CheckRun run() {
    return CheckRun([this](const Check& check) { checks.push_back(check); });
  }
  // "name type shape: problem" of those that failed.
  std::vector<std::string> failed() const {
    std::vector<std::string> out;
    for (const Check& c : checks) {
      if (!c.ok) out.push_back(c.name + " " + c.type + " " + c.shape + ": " + c.problem);
    }
    return out;
  }
  // The names of those that failed, each once, in their order.
  std::vector<std::string> failed_names() const {
    std::vector<std::string> out;
    for (const Check& c : checks) {
      if (!c.ok && (out.empty() || out.back() != c.name)) out.push_back(c.name);
    }
    return out;
  }
};

class ForwardingDevice : public Device {
 public:
  explicit ForwardingDevice(Device& to) : to_(to), info_(to.info()) {}
  const DeviceInfo& info() const override { return info_; }
  const gpu::GpuOps* kernels() const override { return to_.kernels(); }
  const std::byte* seen_by_kernels(DeviceAddr at) const override { return to_.seen_by_kernels(at); }
  DeviceAddr alloc(int64_t bytes, const char* tag) override { return to_.alloc(bytes, tag); }
  void free(DeviceAddr at) override { to_.free(at); }
  int64_t used_bytes() const override { return to_.used_bytes(); }
  std::string pin_host(const void* at, int64_t bytes) override { return to_.pin_host(at, bytes); }
  Timepoint copy_to_device(Stream s, DeviceAddr to, const void* from, int64_t bytes) override {
    return to_.copy_to_device(s, to, from, bytes);
  }
  Timepoint copy_rows_to_device(Stream s, DeviceAddr to, const void* from,
                                const RowCopy& copy) override {
    return to_.copy_rows_to_device(s, to, from, copy);
  }
  Timepoint copy_to_host(Stream s, void* to, DeviceAddr from, int64_t bytes) override {
    return to_.copy_to_host(s, to, from, bytes);
  }
  Timepoint launch(Stream s, const KernelCall& call) override { return to_.launch(s, call); }
  void wait(Stream s, Timepoint point) override { to_.wait(s, point); }
  void host_wait(Timepoint point) override { to_.host_wait(point); }
  void host_wait_all() override { to_.host_wait_all(); }
  Timepoint begin_host_work(const char* name, std::span<const HostTouch> touches,
                            double us) override {
    return to_.begin_host_work(name, touches, us);
  }
  void end_host_work(Timepoint point) noexcept override { to_.end_host_work(point); }
  double host_now_us() const override { return to_.host_now_us(); }
  double stream_now_us(Stream s) const override { return to_.stream_now_us(s); }
  int64_t copied_to_device_bytes() const override { return to_.copied_to_device_bytes(); }
  int64_t kernel_bytes() const override { return to_.kernel_bytes(); }

 protected:
  Device& to_;
  DeviceInfo info_;
};

}  // namespace tandem::test
