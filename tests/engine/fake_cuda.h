// A CUDA runtime of the tests': device memory is host memory, streams are those of fake_streams.h.
// As CUDA does it, copies from memory that is not page-locked read it when they are enqueued, and
// copies to such memory are done when the call returns. It keeps count of what exists, knows what
// every event stands for, and fails where a test wants.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/device/cuda/cuda_plugin_api.h"
#include "tests/engine/fake_streams.h"

namespace tandem::test {

class FakeCuda {
 public:
  FakeCuda();  // one at a time: CUDA's functions have no object
  ~FakeCuda();
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  static const CudaRuntime& table();
  static CudaDeviceFacts facts();
  // A kernel that does nothing.
  static void launch(void* stream);

  // Settings
  // When work is done; default: when it is enqueued.
  void set_schedule(SimSchedule schedule, uint64_t seed) { streams_.set_schedule(schedule, seed); }
  int64_t free_bytes = int64_t{1} << 30;
  int64_t fail_call = -1;  // the n-th call from 0 on …
  int error = 700;         // … returns this, and so do all later ones but those that free
  bool sticky = true;      // or only that one

  // How memory operations behave.
  enum class WaitValue { kWaits, kMissing, kDoesNotWait, kNeverEnds };
  WaitValue wait_value = WaitValue::kWaits;
  std::chrono::milliseconds slow_wait_value{0};  // the call takes so long
  bool host_functions = true;
  int64_t most_graphs = -1;  // so many are captured, then there is no memory for more; -1: all

  // What happened
  int64_t calls = 0;
  struct Wait {
    int waiting;  // streams in the order of their creation
    int waited_for;
    uint64_t n;  // operations of that stream before the event: copies and launch()
  };
  std::vector<Wait> waits;
  std::vector<Wait> syncs;                 // waiting: -1, the host, which found it done
  std::map<int, int64_t> bytes_to_device;  // by stream
  int64_t events_created = 0;
  int64_t memory_waits = 0;
  int64_t function_waits = 0;
  int64_t graphs_captured = 0;
  int64_t graph_launches = 0;
  std::vector<std::string> misuse;
  // Streams, events, graphs, device memory, host memory, pinned ranges. What is left ends with
  // this.
  size_t alive() const;

 private:
  friend struct FakeCalls;
  struct Event {
    bool recorded = false;
    int stream = -1;
    uint64_t taken = 0;  // works of that stream before it
    uint64_t n = 0;
  };
  int begin(const char* what);
  // Whether memory of the host's is page-locked, all of it.
  bool locked(const void* at, int64_t bytes) const;

  FakeStreams streams_;
  std::map<void*, Event> events_;
  std::map<void*, vgpu::Emulation::Captured> graphs_;
  std::set<void*> device_memory_;
  std::map<const void*, int64_t> host_memory_;  // and its bytes
  std::map<const void*, int64_t> pinned_;
  uintptr_t next_event_ = 1;
  uintptr_t next_graph_ = 1;
  bool failed_ = false;
};

}  // namespace tandem::test
