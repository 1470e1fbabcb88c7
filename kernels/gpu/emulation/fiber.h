// A fiber: a function on a stack of its own, which gives control back in its middle and goes on
// from there later. A CUDA thread of the emulation is one. A fiber belongs to the host thread that
// resumes it.
#pragma once

#include <cstddef>

namespace tandem::vgpu {

class Fiber {
 public:
  // Maps a stack with a guard page below it. std::bad_alloc.
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(arg), which must end by end(). Whatever the fiber was in the
  // middle of is forgotten. stagger: moves the stack's top, by cache lines: equal tops of many
  // fibers would share the same few places of the L1 cache.
  void restart(void (*entry)(void*), void* arg, size_t stagger);

  // Runs the fiber until it suspends or ends. From outside of any fiber.
  void resume();
  // Goes back to resume()'s caller. From inside.
  void suspend();
  [[noreturn]] void end();

 private:
  static void run();
  void leave(bool dying);

  std::byte* stack_ = nullptr;  // with the guard page
  void* stack_pointer_ = nullptr;
  void* host_stack_pointer_ = nullptr;
  void (*entry_)(void*) = nullptr;
  void* arg_ = nullptr;
  // The sanitizers' handles
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* host_fake_stack_ = nullptr;
  [[maybe_unused]] const void* host_bottom_ = nullptr;
  [[maybe_unused]] size_t host_size_ = 0;
  [[maybe_unused]] void* tsan_fiber_ = nullptr;
  [[maybe_unused]] void* host_tsan_fiber_ = nullptr;
};

}  // namespace tandem::vgpu
