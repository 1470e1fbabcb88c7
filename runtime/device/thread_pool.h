// Worker threads for CPU kernels. One pool per engine; run() is called by one thread at a time and
// takes part in the work itself, so a pool of n threads starts n - 1 workers. Workers sleep
// between regions. run() does not allocate.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/parallel.h"

namespace tandem {

class ThreadPool {
 public:
  // n_threads is at least 1. MemoryError when the system gives no more threads.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }
  // The contract of ParallelFor. Tasks must not throw.
  void run(int64_t n_tasks, Task task);
  void operator()(int64_t n_tasks, Task task) { run(n_tasks, task); }

 private:
  void work();
  void join();
  void drain(Task task, int64_t n_tasks);

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  const Task* task_ = nullptr;  // guarded by mutex_
  int64_t n_tasks_ = 0;         // guarded by mutex_
  uint64_t region_ = 0;         // guarded by mutex_
  int busy_ = 0;                // guarded by mutex_: workers inside the current region
  bool stop_ = false;           // guarded by mutex_
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> workers_;
};

// Cores that this process may use; the default of -t.
int available_cores();

}  // namespace tandem
