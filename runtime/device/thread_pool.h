// Worker threads for CPU kernels. One pool per engine; run() is called by one thread at a time and
// takes part in the work itself, so a pool of n threads starts n - 1 workers. Between regions
// workers look out for the next one for some microseconds, since a layer has several, and then
// sleep. run() does not allocate. It waits for threads that hold a task, not for those that the
// system has not let begin.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/workspace.h"
#include "runtime/device/cpu_topology.h"

namespace tandem {

class ThreadPool {
 public:
  // n_threads is at least 1. MemoryError when the system gives no more threads. Where `cpu` has
  // several NUMA nodes, workers are spread over them and bound, and of n tasks the k-th of as many
  // equal shares goes to the k-th node's threads, as long as they keep up. The caller counts as a
  // thread of the first node and stays free to move.
  explicit ThreadPool(int n_threads, const CpuTopology* cpu = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }
  // The contract of ParallelFor. Tasks must not throw.
  void run(int64_t n_tasks, Task task);
  void operator()(int64_t n_tasks, Task task) { run(n_tasks, task); }
  // For the kernels that run here, one at a time.
  Workspace& workspace() { return workspace_; }

 private:
  // Tasks that one node's threads take first: [next, end) are left.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(size_t home);
  void join();
  bool enter();
  void leave();
  void drain(Task task, size_t home);
  void drain_share(Task task, Share* share);

  // Written by run() before it opens a region, read by threads inside it.
  const Task* task_ = nullptr;
  std::vector<Share> shares_;  // one a node
  std::atomic<bool> stop_{false};
  // 32 bits each: what a futex can wait for.
  std::atomic<uint32_t> region_{0};
  std::atomic<uint32_t> inside_;  // workers inside the current region, and whether it is closed
  std::vector<std::thread> workers_;
  Workspace workspace_;
};

}  // namespace tandem
