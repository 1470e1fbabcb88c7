// Counts what would be allocated on a device, by tag, and takes no memory: what is built on it
// takes as much as on the device itself, since the same code asks for it. Addresses lead nowhere;
// copies, launches and waits do nothing. It never refuses: what does not fit shows in the count.
//
// Owned by whoever plans, used by one thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/device/modelled_device.h"

namespace tandem {

// Bytes that were allocated under one tag.
struct TaggedBytes {
  std::string tag;
  int64_t bytes = 0;
};

class PlanDevice final : public ModelledDevice {
 public:
  // In the place of `planned`, which may have memory in use, and is not touched.
  PlanDevice(const Device& planned, const MachineProfile& profile);

  const gpu::GpuOps* kernels() const override { return kernels_; }
  DeviceAddr alloc(int64_t bytes, const char* tag) override;
  void free(DeviceAddr at) override;
  void* alloc_host(int64_t bytes, const char* tag) override;
  void free_host(void* at) noexcept override;
  void host_buffer(int64_t bytes, const char* tag) override;
  Timepoint copy_to_device(Stream, DeviceAddr, const void*, int64_t) override { return {}; }
  Timepoint copy_rows_to_device(Stream, DeviceAddr, const void*, const RowCopy&) override {
    return {};
  }
  Timepoint copy_to_host(Stream, void*, DeviceAddr, int64_t) override { return {}; }
  Timepoint launch(Stream, const KernelCall&) override { return {}; }
  int64_t copied_to_device_bytes() const override { return 0; }

  // What exists now, in the order of the tags' first appearance.
  std::vector<TaggedBytes> device_memory() const { return total(device_); }
  std::vector<TaggedBytes> locked_memory() const { return total(locked_); }  // alloc_host()
  std::vector<TaggedBytes> host_memory() const { return total(host_); }      // host_buffer()

 private:
  struct Block {
    int64_t bytes;
    const char* tag;
  };
  // By address: in the order of their making.
  using Blocks = std::map<const void*, Block>;
  static std::vector<TaggedBytes> total(const Blocks& blocks);
  std::byte* add(int64_t bytes, const char* tag, Blocks* to);

  const gpu::GpuOps* kernels_;
  std::byte* next_;  // address that nothing has yet
  Blocks device_;
  Blocks locked_;
  Blocks host_;
};

}  // namespace tandem
