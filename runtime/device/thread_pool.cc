#include "runtime/device/thread_pool.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <system_error>

#include "runtime/error.h"

namespace tandem {

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads > 1) workers_.reserve(static_cast<size_t>(n_threads) - 1);
  try {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    join();
    throw MemoryError(fmt::format("cannot start thread {} of {}: {}; lower -t", workers_.size() + 2,
                                  n_threads, error.code().message()));
  } catch (...) {  // a thread that is not joined would end the program
    join();
    throw;
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t n_tasks, Task task) {
  if (workers_.empty() || n_tasks <= 1) {
    serial_for(n_tasks, task);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    n_tasks_ = n_tasks;
    next_.store(0, std::memory_order_relaxed);
    busy_ = static_cast<int>(workers_.size());
    ++region_;
  }
  start_.notify_all();
  drain(task, n_tasks);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
}

void ThreadPool::drain(Task task, int64_t n_tasks) {
  for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < n_tasks;
       i = next_.fetch_add(1, std::memory_order_relaxed)) {
    task(i);
  }
}

void ThreadPool::work() {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    start_.wait(lock, [&] { return stop_ || region_ != seen; });
    if (stop_) return;
    seen = region_;
    const Task task = *task_;
    const int64_t n_tasks = n_tasks_;
    lock.unlock();
    drain(task, n_tasks);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace tandem
