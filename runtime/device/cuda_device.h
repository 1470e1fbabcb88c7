// A real GPU, through the functions of the plug-in (cuda/cuda_plugin_api.h). Two streams of CUDA's;
// a timepoint is an event that was recorded behind the operation, or behind a later one of its
// stream. The clock is modelled, as elsewhere: it is what planner and prefetcher reckon with.
//
// No GPU has run this: tests put a table of their own in the place of the CUDA runtime.
#pragma once

#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/device/cuda/cuda_plugin_api.h"
#include "runtime/device/hand_over.h"
#include "runtime/device/modelled_device.h"

namespace tandem {

// Of a GPU's free memory, what is left to the driver and to others unless --vram says how much to
// take.
inline constexpr int64_t kVramMargin = int64_t{512} << 20;

class CudaDevice final : public ModelledDevice {
 public:
  // GPU `index`. vram_bytes: what to take at most; default: what is free, less the margin.
  // hand_over: as HandOver's. DeviceError when the GPU cannot be opened, MemoryError when it has
  // not that much free.
  CudaDevice(const MachineProfile& profile, const CudaRuntime& cuda, const gpu::GpuOps& kernels,
             const CudaDeviceFacts& facts, int index, std::optional<int64_t> vram_bytes,
             int64_t margin_bytes = kVramMargin, std::optional<HandOverKind> hand_over = {});
  // Waits for what is enqueued. Everything allocated must have been freed, but for device memory.
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const gpu::GpuOps* kernels() const override { return &kernels_; }
  DeviceAddr alloc(int64_t bytes, const char* tag) override;
  void free(DeviceAddr at) override;
  void* alloc_host(int64_t bytes, const char* tag) override;
  void free_host(void* at) noexcept override;
  std::string pin_host(const void* at, int64_t bytes) override;
  Timepoint copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) override;
  Timepoint copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                const RowCopy& copy) override;
  Timepoint copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) override;
  void mark(Stream stream) override;
  Timepoint launch(Stream stream, const KernelCall& call) override;
  bool keeps_graphs() const override { return true; }
  void begin_graph() override;
  Graph end_graph() override;
  void cancel_graph() noexcept override;
  Timepoint run_graph(Graph graph, int64_t more_bytes) override;
  void free_graph(Graph graph) noexcept override;
  void wait(Stream stream, Timepoint point) override;
  void host_wait(Timepoint point) override;
  void host_wait_all() override;
  void end_host_work(Timepoint point) noexcept override;
  int64_t copied_to_device_bytes() const override { return copied_bytes_; }

  const HandOver& hand_over() const { return *hand_over_; }
  // How long the host waits for enqueued work before it takes the GPU to be lost.
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }

 private:
  // Recorded events of a stream, oldest first; n: operations before it.
  struct Mark {
    uint64_t n;
    void* event;
  };
  static constexpr size_t kMarks = 512;
  struct Lane {
    void* stream = nullptr;
    uint64_t n = 0;  // operations enqueued
    std::deque<Mark> marks{};
    std::array<uint64_t, kLaneCount> waited{};  // for so many operations of each stream
  };
  struct Kept {
    void* graph;
    double us;  // modelled, as if each were enqueued alone
    int64_t bytes;
  };
  Lane& lane(Stream stream) { return lanes_[static_cast<size_t>(stream)]; }
  // DeviceError unless error is 0; the device is lost then.
  void check(int error, const char* what);
  void check_lost(const char* what) const;
  // Counts an operation that was enqueued; later ones are told from it by waits where `marked`.
  Timepoint enqueued(Stream stream, bool marked, double us);
  void record(Lane* lane);
  // An event that is recorded behind `point`.
  void* event_behind(Timepoint point);
  // DeviceError when it has failed, or has not come within the patience.
  void await(void* event);
  // What frees memory waits for all streams first, and one of them never ends.
  bool waits_for_ever() const { return stuck_ || (hand_over_ && hand_over_->stuck()); }
  void close() noexcept;

  const CudaRuntime& cuda_;
  const gpu::GpuOps& kernels_;
  std::array<Lane, kStreamCount> lanes_;
  std::map<void*, int64_t> blocks_;  // device memory and its bytes
  std::vector<const void*> pinned_;
  std::array<uint64_t, kLaneCount> host_waited_{};
  std::optional<HandOver> hand_over_;
  std::optional<Kept> keeping_;  // between begin_graph() and end_graph()
  std::map<uint32_t, Kept> graphs_;
  uint32_t next_graph_ = 1;
  int64_t copied_bytes_ = 0;
  std::chrono::milliseconds patience_ = std::chrono::minutes(1);
  bool lost_ = false;
  bool stuck_ = false;  // lost, and waits for ever
};

}  // namespace tandem
