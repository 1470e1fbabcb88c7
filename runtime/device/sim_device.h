// A simulated GPU: bounded memory that the host cannot dereference, a copy engine with latency and
// bandwidth, two streams on a virtual clock. Operations take effect when they are enqueued, which
// is one legal order; their modelled times follow streams and waits. Kernels are host code, which
// is fast, or those of kernels/gpu in their emulation, which is how these are tested in a whole
// model.
#pragma once

#include <map>
#include <memory>

#include "runtime/device/modelled_device.h"

namespace tandem {

namespace vgpu {
class Emulation;
}

enum class SimKernels : uint8_t { kHost, kEmulated };

class SimDevice final : public ModelledDevice {
 public:
  // MemoryError when the address space for vram_bytes cannot be reserved. ConfigError when kernels
  // are to be emulated, which this processor's build cannot.
  SimDevice(const MachineProfile& profile, int64_t vram_bytes,
            SimKernels kernels = SimKernels::kHost);
  ~SimDevice() override;
  SimDevice(const SimDevice&) = delete;
  SimDevice& operator=(const SimDevice&) = delete;

  const gpu::GpuOps* kernels() const override;
  const std::byte* seen_by_kernels(DeviceAddr at) const override { return backing(at, 0); }
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
  std::shared_ptr<vgpu::Emulation> emulation_;  // null: kernels are host code
};

}  // namespace tandem
