// What CpuDevice and SimDevice share: a virtual clock that follows streams and waits.
#pragma once

#include <utility>

#include "runtime/device/device.h"
#include "runtime/device/virtual_clock.h"
#include "scheduler/cost_model.h"

namespace tandem {

class ModelledDevice : public Device {
 public:
  const DeviceInfo& info() const final { return info_; }
  int64_t used_bytes() const final { return used_bytes_; }
  void wait(Stream stream, Timepoint point) override { clock_.wait(stream, point); }
  void host_wait(Timepoint point) override { clock_.host_wait(point); }
  void host_wait_all() override { clock_.host_wait_all(); }
  void host_busy(double us) final { clock_.host_busy(us); }
  double host_now_us() const final { return clock_.host_us(); }
  int64_t kernel_bytes() const final { return kernel_bytes_; }
  double stream_now_us(Stream stream) const final { return clock_.end_us(stream); }

 protected:
  ModelledDevice(DeviceInfo info, const MachineProfile& profile)
      : info_(std::move(info)), model_(profile) {}

  DeviceInfo info_;
  CostModel model_;
  VirtualClock clock_;
  int64_t used_bytes_ = 0;
  int64_t kernel_bytes_ = 0;
};

}  // namespace tandem
