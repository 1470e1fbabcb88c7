// What all devices share: a virtual clock that follows streams and waits, and host work.
#pragma once

#include <atomic>
#include <utility>

#include "runtime/device/device.h"
#include "runtime/device/short_wait.h"
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
  Timepoint begin_host_work(const char* /*name*/, std::span<const HostTouch> /*touches*/,
                            double us) override {
    return clock_.run(Stream::kHost, us);
  }
  void end_host_work(Timepoint point) noexcept override {
    store_and_wake(host_work_done_, point.n);
  }
  double host_now_us() const final { return clock_.host_us(); }
  int64_t kernel_bytes() const final { return kernel_bytes_; }
  double stream_now_us(Stream stream) const final { return clock_.end_us(stream); }

 protected:
  ModelledDevice(DeviceInfo info, const MachineProfile& profile)
      : info_(std::move(info)), model_(profile) {}

  bool host_work_is_done(Timepoint point) const {
    return host_work_done_.load(std::memory_order_acquire) >= point.n;
  }
  // Sleeps until host work has ended.
  void await_host_work(Timepoint point) const {
    uint64_t done = 0;
    while ((done = host_work_done_.load(std::memory_order_acquire)) < point.n) {
      host_work_done_.wait(done, std::memory_order_acquire);
    }
  }

  DeviceInfo info_;
  CostModel model_;
  VirtualClock clock_;
  int64_t used_bytes_ = 0;
  int64_t kernel_bytes_ = 0;

 private:
  std::atomic<uint64_t> host_work_done_{0};
};

}  // namespace tandem
