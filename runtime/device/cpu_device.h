// "No GPU": device memory is host memory, kernels run at once on the calling thread's pool, and
// the modelled time is the CPU's of the machine profile.
#pragma once

#include <memory>
#include <vector>

#include "runtime/device/modelled_device.h"

namespace tandem {

class CpuDevice final : public ModelledDevice {
 public:
  explicit CpuDevice(const MachineProfile& profile);
  ~CpuDevice() override;
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  DeviceAddr alloc(int64_t bytes, const char* tag) override;
  void free(DeviceAddr at) override;
  Timepoint copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) override;
  Timepoint copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                const RowCopy& copy) override;
  Timepoint copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) override;
  void wait(Stream stream, Timepoint point) override;
  void host_wait(Timepoint point) override;
  Timepoint launch(Stream stream, const KernelCall& call) override;
  int64_t copied_to_device_bytes() const override { return 0; }

 private:
  struct Block {
    std::byte* at;
    int64_t bytes;
  };

  std::vector<Block> blocks_;
};

}  // namespace tandem
