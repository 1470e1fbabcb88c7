// "No GPU": device memory is host memory, kernels run at once on the calling thread's pool, and
// the modelled time is the CPU's of the machine profile.
#pragma once

#include <memory>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/virtual_clock.h"
#include "scheduler/cost_model.h"

namespace tandem {

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const MachineProfile& profile);
  ~CpuDevice() override;
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  const DeviceInfo& info() const override { return info_; }
  DeviceAddr alloc(int64_t bytes, const char* tag) override;
  void free(DeviceAddr at) override;
  int64_t used_bytes() const override { return used_bytes_; }
  Timepoint copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) override;
  Timepoint copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) override;
  Timepoint launch(Stream stream, const KernelCall& call) override;
  void wait(Stream stream, Timepoint point) override { clock_.wait(stream, point); }
  void host_wait(Timepoint point) override { clock_.host_wait(point); }
  void host_busy(double us) override { clock_.host_busy(us); }
  double host_now_us() const override { return clock_.host_us(); }
  double stream_now_us(Stream stream) const override { return clock_.end_us(stream); }
  int64_t copied_to_device_bytes() const override { return 0; }

 private:
  struct Block {
    std::byte* at;
    int64_t bytes;
  };

  DeviceInfo info_;
  CostModel model_;
  VirtualClock clock_;
  std::vector<Block> blocks_;
  int64_t used_bytes_ = 0;
};

}  // namespace tandem
