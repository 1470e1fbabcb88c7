// The seam between the engine and a GPU: memory that only the device may touch, streams that run
// in order, copies, kernels. CpuDevice runs everything at once on host memory, SimDevice is a
// simulated GPU; CudaDevice comes behind the same interface.
//
// Owned by the engine; called by the thread that runs the step loop. Nothing but alloc() and
// free() allocates. Failures: MemoryError at alloc(); DeviceError from every call once something
// has gone wrong on the device, perhaps some calls later; CHECKs for what a caller may not do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/tensor.h"
#include "runtime/device/kernel_body.h"

namespace tandem {

namespace gpu {
struct GpuOps;
}

// kHost is none of the device's streams, but what the host does beside the thread that feeds it.
enum class Stream : uint8_t { kCompute = 0, kCopy = 1, kHost = 2 };
inline constexpr int kStreamCount = 2;  // of the device
inline constexpr int kLaneCount = 3;    // those and kHost

// "The n-th operation of this stream has ended." n = 0 has always ended.
struct Timepoint {
  Stream stream = Stream::kCompute;
  uint64_t n = 0;
};

// An address in device memory. The host must never dereference it; kernels resolve it.
struct DeviceAddr {
  std::byte* at = nullptr;
  explicit operator bool() const { return at != nullptr; }
  friend DeviceAddr operator+(DeviceAddr a, int64_t bytes) { return {a.at + bytes}; }
};

// What a kernel reads and writes. Declared with every launch.
struct Touch {
  DeviceAddr at;
  int64_t bytes = 0;
  bool write = false;
};

// Handed to a running kernel: the only way from a device address to memory. A resolved range
// must lie within what the launch declared.
class KernelScope {
 public:
  // stream: what the functions of a GpuOps take; null where host code computes.
  KernelScope(std::span<const Touch> touches, std::ptrdiff_t offset, void* stream = nullptr)
      : touches_(touches), offset_(offset), stream_(stream) {}

  void* stream() const { return stream_; }

  const std::byte* read(DeviceAddr at, int64_t bytes) const;
  std::byte* write(DeviceAddr at, int64_t bytes) const;
  template <typename T>
  const T* read_as(DeviceAddr at, int64_t count) const {
    return reinterpret_cast<const T*>(read(at, count * static_cast<int64_t>(sizeof(T))));
  }
  template <typename T>
  T* write_as(DeviceAddr at, int64_t count) const {
    return reinterpret_cast<T*>(write(at, count * static_cast<int64_t>(sizeof(T))));
  }
  // The same matrix at an address that may be read.
  WeightView read(const WeightView& device_view) const;

 private:
  std::byte* resolve(DeviceAddr at, int64_t bytes, bool write) const;

  std::span<const Touch> touches_;
  std::ptrdiff_t offset_;  // from device addresses to memory
  void* stream_;
};

struct KernelCall {
  const char* name;
  std::span<const Touch> touches;
  int64_t bytes;  // moved, for the modelled time
  int64_t flops;
  KernelBody body;
  bool marked = false;  // its timepoint will be waited for
};

// Work of the compute stream that a device keeps, to do it again. id 0: none.
struct Graph {
  uint32_t id = 0;
};

// What host work reads and writes of memory that copies use, too.
struct HostTouch {
  const void* at = nullptr;
  int64_t bytes = 0;
  bool write = false;
};

struct DeviceInfo {
  std::string name;
  std::string description;
  int64_t vram_bytes = 0;    // 0: no memory of its own
  bool host_memory = false;  // kernels read host memory in place; no copies are needed
  bool simulated = false;
  bool counts_only = false;  // there is no memory behind what is allocated: PlanDevice
  int64_t granularity = 1;   // used_bytes() counts an allocation in multiples of this
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // The GPU kernels that bodies of launches enqueue; null where bodies are host code that computes.
  virtual const gpu::GpuOps* kernels() const { return nullptr; }

  // What kernels see of an address, to be kept in device memory itself.
  virtual const std::byte* seen_by_kernels(DeviceAddr at) const { return at.at; }

  // 256-byte aligned; contents undefined. MemoryError when it does not fit.
  virtual DeviceAddr alloc(int64_t bytes, const char* tag) = 0;
  virtual void free(DeviceAddr at) = 0;
  virtual int64_t used_bytes() const = 0;

  // Host memory that copies use, 64-byte aligned, contents undefined; page-locked where there is a
  // GPU. HostMemoryError.
  virtual void* alloc_host(int64_t bytes, const char* tag);
  virtual void free_host(void* at) noexcept;
  // Memory of the host's that goes with what is on the device, and that copies do not use, is about
  // to be allocated elsewhere. Nothing happens; a device that counts is told.
  virtual void host_buffer(int64_t /*bytes*/, const char* /*tag*/) {}
  // Locks the pages of large host memory so that copies from it run at the link's speed, until this
  // device ends. What the system refuses is copied more slowly. Returns why it refused, or nothing.
  virtual std::string pin_host(const void* /*at*/, int64_t /*bytes*/) { return {}; }

  virtual Timepoint copy_to_device(Stream stream, DeviceAddr to, const void* from,
                                   int64_t bytes) = 0;
  // rows of row_bytes each, that many bytes apart on either side. One copy.
  struct RowCopy {
    int64_t rows = 0;
    int64_t row_bytes = 0;
    int64_t to_stride = 0;
    int64_t from_stride = 0;
  };
  virtual Timepoint copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                        const RowCopy& copy) = 0;
  virtual Timepoint copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) = 0;
  // What is enqueued up to here can be waited for without waiting for what comes after it;
  // elsewhere a wait may be for more. Copies to the host are marked, launches where the call says
  // so.
  virtual void mark(Stream /*stream*/) {}
  virtual Timepoint launch(Stream stream, const KernelCall& call) = 0;
  // Whether work can be kept as a graph: bodies of launches only enqueue. Then launches and copies
  // to the host of the compute stream between begin_graph() and end_graph() are not done but kept,
  // with the addresses and arguments that they have; their timepoints mean nothing, and no other
  // calls come in between. run_graph() enqueues all of it, as often as is wanted, and returns the
  // timepoint of its end; more_bytes: what it moves beyond what its launches said. cancel_graph():
  // instead of end_graph(), where something was thrown. end_graph(): MemoryError when the device
  // has none for a graph; nothing has been done then, and it goes on.
  virtual bool keeps_graphs() const { return false; }
  virtual void begin_graph();
  virtual Graph end_graph();
  virtual void cancel_graph() noexcept {}
  virtual Timepoint run_graph(Graph graph, int64_t more_bytes);
  virtual void free_graph(Graph /*graph*/) noexcept {}

  // Later work of `stream` starts after `point`.
  virtual void wait(Stream stream, Timepoint point) = 0;
  // The host goes on after `point`.
  virtual void host_wait(Timepoint point) = 0;
  // After everything that is enqueued.
  virtual void host_wait_all() = 0;
  // The host is about to read or write memory that copies use, too. Nothing happens; a device that
  // looks for missing waits is told. what: lives as long as the device.
  virtual void host_access(const char* /*what*/, const void* /*at*/, int64_t /*bytes*/,
                           bool /*write*/) {}

  // The hand-over from host to device. Host work begins beside the thread that feeds the device;
  // streams and the host can wait for its end before it has come, as for any other timepoint. One
  // at a time, each to be ended whatever happens to it: a stream may be waiting. name: lives as
  // long as the device. us: what it takes, as modelled.
  virtual Timepoint begin_host_work(const char* name, std::span<const HostTouch> touches,
                                    double us) = 0;
  virtual void end_host_work(Timepoint point) noexcept = 0;  // from any thread

  virtual double host_now_us() const = 0;                 // modelled
  virtual double stream_now_us(Stream stream) const = 0;  // modelled end of what is enqueued
  virtual int64_t copied_to_device_bytes() const = 0;     // since the start, weights and all
  virtual int64_t kernel_bytes() const = 0;               // moved by kernels, as launches say
};

}  // namespace tandem
