// How a stream of CUDA's waits for host work (Device::begin_host_work): on a counter in page-locked
// memory that the host raises and the GPU sees, so that neither a call to CUDA nor a copy stands
// between the end of the work and what was enqueued behind it. There are several ways, and not
// every system has each:
//
// - memory operations: the GPU's front end looks at the counter (cuStreamWaitValue32). No
//   multiprocessor is busy. Missing under WDDM and in some virtual machines.
// - host functions: a thread of the driver's sleeps until the work has ended (cudaLaunchHostFunc).
//   Other projects report 30 to 50 us.
// - a spin kernel: one thread of the GPU looks again and again. Everywhere, but the GPU counts as
//   busy meanwhile, which costs power.
// - host waits: the host enqueues nothing before the work has ended.
//
// None has run on a GPU. `tandem selftest --gpu` measures each.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "runtime/device/cuda/cuda_plugin_api.h"

namespace tandem {

enum class HandOverKind : uint8_t { kMemoryOperation, kHostFunction, kSpinKernel, kHostWaits };
// In the order in which they are tried.
inline constexpr std::array kHandOverKinds{HandOverKind::kMemoryOperation,
                                           HandOverKind::kHostFunction, HandOverKind::kSpinKernel};
const char* hand_over_name(HandOverKind kind);

class HandOver {
 public:
  // Takes the first kind, or the wanted one, that a trial on a stream of its own shows to wait and
  // to go on; otherwise the host waits. Both outlive this.
  HandOver(const CudaRuntime& cuda, const gpu::GpuOps& kernels,
           std::optional<HandOverKind> wanted = {});
  ~HandOver();
  HandOver(const HandOver&) = delete;
  HandOver& operator=(const HandOver&) = delete;

  HandOverKind kind() const { return kind_; }
  // Why others were not taken; empty: none was tried.
  const std::string& reason() const { return reason_; }
  // A trial left a stream that waits for ever: nobody may wait for the whole device.
  bool stuck() const { return stuck_; }
  // Nothing is waited for or freed any more.
  void abandon() { stuck_ = true; }

  // Work of `stream` that is enqueued later starts when done(n) has been called. Not for
  // kHostWaits. Returns CUDA's error.
  int enqueue_wait(void* stream, uint64_t n);
  // From any thread, in ascending order.
  void done(uint64_t n) noexcept;

 private:
  // Of a host function.
  struct Ticket {
    const HandOver* from;
    uint32_t value;
  };
  static constexpr size_t kTickets = 1024;  // many times what is enqueued at once
  static void sleep_until(void* ticket);
  int enqueue(HandOverKind kind, void* stream, uint32_t value);
  // Why this kind does not do; empty: it does. Raises the counter.
  std::string trial(HandOverKind kind);
  // What CUDA says of `event` when it no longer says "not ready", or after so long.
  int last_state(void* event, std::chrono::milliseconds patience);

  const CudaRuntime& cuda_;
  const gpu::GpuOps& kernels_;
  HandOverKind kind_ = HandOverKind::kHostWaits;
  std::string reason_;
  bool stuck_ = false;
  uint32_t* counter_ = nullptr;  // page-locked; null: there is none
  uint32_t first_ = 0;           // the counter's value when nothing of done()'s has ended
  size_t next_ticket_ = 0;
  std::array<Ticket, kTickets> tickets_{};
};

}  // namespace tandem
