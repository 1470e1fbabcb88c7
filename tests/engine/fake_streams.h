// Streams of the tests' CUDA runtime: each is an Emulation that kernels are launched on, and a
// queue of what it has not done yet. Streams are in order, and between them waits are the only
// order, so work is done when it is enqueued, as late as it may be, or in between.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "kernels/gpu/emulation/emulation.h"
#include "runtime/device/sim_settings.h"

namespace tandem::test {

struct PendingWork {
  std::function<void()> run;
  // Not before `taken` works of stream `of` are done, and the host is ready; -1, empty: always.
  int of = -1;
  uint64_t taken = 0;
  std::function<bool()> host_is_ready{};
};

class FakeStreams {
 public:
  using Work = std::function<void()>;
  struct Stream {
    vgpu::Emulation emulation;
    int index = 0;          // streams in the order of their creation
    uint64_t n = 0;         // copies and FakeCuda::launch(): for tests to count
    bool captures = false;  // a graph
    uint64_t taken = 0;     // works that were enqueued
    uint64_t done = 0;      // of these
    std::deque<PendingWork> pending;
  };

  ~FakeStreams();
  Stream* create();
  void destroy(Stream* stream);  // its work is done first
  Stream* find(void* at) const;  // nullptr: no stream
  size_t count() const { return streams_.size(); }

  void set_schedule(SimSchedule schedule, uint64_t seed);
  // Takes the kernels that were launched since, and does what the schedule wants done now.
  void advance();
  void enqueue(Stream* stream, Work work);
  // What is enqueued on `stream` later is done behind the first `taken` works of stream `index`.
  void wait(Stream* stream, int index, uint64_t taken);
  // … or when the host is ready.
  void wait_for_host(Stream* stream, std::function<bool()> host_is_ready);
  void begin_capture(Stream* stream);
  vgpu::Emulation::Captured end_capture(Stream* stream);
  // Whether the first `taken` works of stream `index` are done. Does what is needed for it, but not
  // what waits for the host.
  bool finish(int index, uint64_t taken);
  void finish_all();
  // What is not done never will be.
  void drop();

 private:
  Stream* at(int index) const;  // nullptr: it is gone, and was done before
  bool is_done(int index, uint64_t taken) const;
  bool runnable(const Stream& stream) const;
  void run_next(Stream* stream);
  bool run_any();
  // Whether it is done now.
  bool finish(Stream* stream, uint64_t taken);
  // Kernels that were launched are kept by the emulation until here.
  static void take_kernels(Stream* stream);

  SimSchedule schedule_ = SimSchedule::kAtOnce;
  std::mt19937_64 random_;
  std::map<int, Stream*> streams_;
  int next_ = 0;
};

}  // namespace tandem::test
