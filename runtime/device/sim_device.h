// A simulated GPU: bounded memory that the host cannot dereference, a copy engine with latency and
// bandwidth, two streams on a virtual clock. Operations take effect when they are enqueued, which
// is one legal order; their modelled times follow streams and waits. Kernels are host code for now.
#pragma once

#include <map>

#include "runtime/device/modelled_device.h"

namespace tandem {

class SimDevice final : public ModelledDevice {
 public:
  // MemoryError when the address space for vram_bytes cannot be reserved.
  SimDevice(const MachineProfile& profile, int64_t vram_bytes);
  ~SimDevice() override;
  SimDevice(const SimDevice&) = delete;
  SimDevice& operator=(const SimDevice&) = delete;

  DeviceAddr alloc(int64_t bytes, const char* tag) override;
  void free(DeviceAddr at) override;
  Timepoint copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) override;
  Timepoint copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                const RowCopy& copy) override;
  Timepoint copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) override;
  Timepoint launch(Stream stream, const KernelCall& call) override;
  int64_t copied_to_device_bytes() const override { return copied_bytes_; }

 private:
  // The memory behind a device range; CHECKs that the range lies inside one allocation.
  std::byte* backing(DeviceAddr at, int64_t bytes) const;
  double copy_latency_us(Stream stream) const;

  std::byte* addresses_ = nullptr;  // PROT_NONE: what the host sees
  std::byte* memory_ = nullptr;     // what kernels and copies see
  int64_t arena_bytes_ = 0;
  std::map<int64_t, int64_t> blocks_;  // offset -> bytes, first fit
  int64_t copied_bytes_ = 0;
};

}  // namespace tandem
