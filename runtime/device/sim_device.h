// A simulated GPU: bounded memory that the host cannot dereference, a copy engine with latency and
// bandwidth, two streams on a virtual clock. Work takes effect when it is enqueued, unless a test
// asks for another schedule; modelled times follow streams and waits. Kernels are host code, which
// is fast, or those of kernels/gpu in their emulation, which is how these are tested in a whole
// model. Under ASan a kernel that touches what its launch did not declare is an error.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/function_ref.h"
#include "runtime/device/hazard_checker.h"
#include "runtime/device/modelled_device.h"
#include "runtime/device/sim_settings.h"
#include "runtime/device/work_queue.h"

namespace tandem {

namespace vgpu {
class Emulation;
}

class SimDevice final : public ModelledDevice {
 public:
  // MemoryError when the address space for vram_bytes cannot be reserved. ConfigError when kernels
  // are to be emulated, which is possible on x86-64 only.
  SimDevice(const MachineProfile& profile, int64_t vram_bytes, const SimSettings& settings = {});
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
  bool keeps_graphs() const override { return emulation_ != nullptr; }
  void begin_graph() override;
  Graph end_graph() override;
  void cancel_graph() noexcept override;
  Timepoint run_graph(Graph graph, int64_t more_bytes) override;
  void free_graph(Graph graph) noexcept override;
  void wait(Stream stream, Timepoint point) override;
  void host_wait(Timepoint point) override;
  void host_wait_all() override;
  Timepoint begin_host_work(const char* name, std::span<const HostTouch> touches,
                            double us) override;
  void host_access(const char* what, const void* at, int64_t bytes, bool write) override;
  int64_t copied_to_device_bytes() const override { return copied_bytes_; }

  // Calls that can be made to fail so far.
  uint64_t calls() const { return calls_; }
  // CUDA kernels that were launched so far; of emulated ones only.
  uint64_t kernel_launches() const;

 private:
  // Enqueue the same again, which moves so many bytes more; each returns its timepoint.
  using Kept = std::vector<std::function<Timepoint(int64_t more_bytes)>>;

  // The memory behind a device range; CHECKs that the range lies inside one allocation.
  std::byte* backing(DeviceAddr at, int64_t bytes) const;
  double copy_latency_us(Stream stream) const;
  // What every call begins with: DeviceError or MemoryError where it is to fail. True where its
  // work will not be done.
  bool begin_call(const char* what);
  // Work of so many microseconds of the modelled time: done now or left to the queue, unless it is
  // not to be done.
  template <typename F>
  Timepoint enqueue(Stream stream, double us, bool fails, const F& work);
  // What is common to a launch that is new and one that was kept. run: may touch `touches`.
  template <typename F>
  Timepoint enqueue_launch(Stream stream, const char* name, std::span<const Touch> touches,
                           int64_t bytes, int64_t flops, const F& run);
  // run() with its memory open to it.
  void run_kernel(FunctionRef<void()> run, std::span<const Touch> touches);
  void keep(const KernelCall& call);
  void end_host_wait();

  SimSettings settings_;
  std::byte* addresses_ = nullptr;  // PROT_NONE: what the host sees
  std::byte* memory_ = nullptr;     // what kernels and copies see
  int64_t arena_bytes_ = 0;
  std::map<int64_t, int64_t> blocks_;  // offset -> bytes, first fit
  int64_t copied_bytes_ = 0;
  uint64_t calls_ = 0;
  const char* broken_ = nullptr;                // work that failed: it and what follows is not done
  bool lost_ = false;                           // and the host knows
  std::shared_ptr<vgpu::Emulation> emulation_;  // null: kernels are host code
  std::optional<Kept> keeping_;                 // between begin_graph() and end_graph()
  std::map<uint32_t, Kept> graphs_;
  uint32_t next_graph_ = 1;
  std::optional<HazardChecker> checker_;
  WorkQueue queue_;
};

}  // namespace tandem
