// A thread that does one job at a time beside its owner: it computes the CPU's experts, with the
// pool's threads, while the owner feeds the device.
//
// start() and wait() are the owner's. Both ends look for some 20 us before they
// sleep, the thread for longer where jobs come once a layer (short_wait.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>

namespace tandem {

class SideThread {
 public:
  // MemoryError when the system gives no thread.
  SideThread();
  // Waits for the job that runs.
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  // Begins a job; the one before must have been waited for. What it refers to must live until it
  // has been.
  void start(std::function<void()> job);
  // Returns once the job has ended, or at once if none has begun since. Rethrows what it threw.
  void wait();
  bool busy() const { return started_ != waited_; }

 private:
  void work();

  std::function<void()> job_;
  std::exception_ptr error_;
  std::atomic<uint32_t> begun_{0};  // jobs; written by the owner
  std::atomic<uint32_t> ended_{0};  // jobs; written by the thread
  std::atomic<bool> stop_{false};
  uint32_t started_ = 0;  // the owner's count
  uint32_t waited_ = 0;
  std::thread thread_;
};

}  // namespace tandem
