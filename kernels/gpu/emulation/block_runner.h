// The threads of one block: who may run, who waits at a barrier or for lanes of its warp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "kernels/gpu/emulation/emulation.h"
#include "kernels/gpu/emulation/fiber.h"
#include "kernels/gpu/emulation/shared_arena.h"

namespace tandem::vgpu {

inline constexpr unsigned kWarp = 32;

struct Index3 {
  unsigned x;
  unsigned y;
  unsigned z;
};

// Which CUDA thread this is.
struct ThreadIndex {
  Index3 thread;
  Index3 block;
  Size3 block_size;
  Size3 grid_size;
  unsigned lane;
  unsigned warp;
};

// Where in the kernel's source something was called.
struct Place {
  const char* file = "";
  int line = 0;
};

// What lanes do together: called once, with the arguments of all lanes in `mask`.
using WarpFunction = void (*)(void** arguments, uint32_t mask);

struct AsyncCopy {
  void* to;
  const void* from;
  size_t size;   // 4 or 16
  size_t bytes;  // of these; the rest becomes zero
};

class BlockRunner {
 public:
  explicit BlockRunner(const EmulationOptions& options);

  // All blocks of a launch, one after the other. What the host does afterwards happens after all
  // threads; blocks stay unordered. Rethrows what a thread has thrown; KernelFault.
  void run_grid(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes,
                FunctionRef<void()> body);

  // Called by the CUDA thread that runs:
  void barrier(Place place);
  // A shuffle moves data and orders no memory accesses.
  void with_lanes(uint32_t mask, WarpFunction function, void* argument, Place place);
  void* shared_array(const void* key, size_t bytes, size_t align);
  void* dynamic_shared() const { return dynamic_; }
  void copy_async(const AsyncCopy& copy);
  void commit_copies();
  void wait_copies(size_t most_pending);
  [[noreturn]] void fault(const char* format, ...) const __attribute__((format(printf, 2, 3)));

 private:
  enum class State : uint8_t { kReady, kAtBarrier, kForLanes, kEnded };
  struct Thread {
    Fiber fiber;
    ThreadIndex index{};
    State state = State::kEnded;
    Place place;  // where it waits
    uint32_t mask = 0;
    WarpFunction function = nullptr;
    void* argument = nullptr;
    std::vector<AsyncCopy> copies;  // that have not landed
    std::vector<size_t> groups;     // numbers of copies, in order
    size_t open = 0;                // copies of no group yet
  };
  static void run_thread(void* runner_object);
  void run(uint64_t index);
  void start_threads(Index3 block);
  bool resume_ready();
  void suspend(Thread& thread);
  void release_barrier();
  void report_deadlock();
  void land(const AsyncCopy& copy) const;
  unsigned number(const Thread& thread) const {
    return thread.index.warp * kWarp + thread.index.lane;
  }
  uint64_t random();

  EmulationOptions options_;
  uint64_t random_;
  SharedArena shared_;
  // Two sets that blocks use in turn: TSan is to see the threads of neighbouring blocks as
  // different ones, and its fibers cost a millisecond each to make.
  std::vector<std::unique_ptr<Thread>> sets_[2];
  int set_ = 0;

  // Of the launch
  const char* name_ = "";
  Size3 grid_;
  Size3 block_;
  size_t dynamic_bytes_ = 0;
  const FunctionRef<void()>* body_ = nullptr;
  char launch_begin_ = 0;  // addresses that TSan orders by
  char launch_end_ = 0;

  // Of the block
  std::vector<Thread*> threads_;
  std::vector<unsigned> order_;
  Thread* current_ = nullptr;
  unsigned live_ = 0;
  unsigned at_barrier_ = 0;
  unsigned phase_ = 0;
  std::vector<uint32_t> waiting_;  // lanes of each warp that wait for others
  void* dynamic_ = nullptr;
  std::exception_ptr error_;
  char barrier_objects_[2] = {};
};

// Of the CUDA thread that runs on this host thread.
extern constinit thread_local const ThreadIndex* self;
extern constinit thread_local BlockRunner* runner;

}  // namespace tandem::vgpu
