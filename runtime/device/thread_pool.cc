#include "runtime/device/thread_pool.h"

#include <fmt/format.h>

#include <system_error>

#include "runtime/device/short_wait.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr uint32_t kClosed = uint32_t{1} << 31;

}  // namespace

ThreadPool::ThreadPool(int n_threads, const CpuTopology* cpu)
    : shares_(cpu == nullptr ? 1 : static_cast<size_t>(cpu->n_nodes())), inside_(kClosed) {
  if (n_threads > 1) workers_.reserve(static_cast<size_t>(n_threads) - 1);
  try {
    for (int i = 1; i < n_threads; ++i) {
      const int node = cpu == nullptr ? 0 : cpu->node_of_thread(i, n_threads);
      workers_.emplace_back([this, node] { work(static_cast<size_t>(node)); });
      if (shares_.size() > 1) cpu->bind_thread(workers_.back().native_handle(), node);
    }
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
  stop_.store(true, std::memory_order_relaxed);
  region_.fetch_add(1, std::memory_order_seq_cst);
  region_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t n_tasks, Task task) {
  if (workers_.empty() || n_tasks <= 1) {
    serial_for(n_tasks, task);
    return;
  }
  task_ = &task;
  const auto n_shares = static_cast<int64_t>(shares_.size());
  for (int64_t i = 0; i < n_shares; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    share.next.store(n_tasks * i / n_shares, std::memory_order_relaxed);
    share.end = n_tasks * (i + 1) / n_shares;
  }
  inside_.store(0, std::memory_order_release);
  region_.fetch_add(1, std::memory_order_seq_cst);  // as in store_and_wake()
  region_.notify_all();
  drain(task, 0);
  uint32_t inside = inside_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while (inside != kClosed) {
    inside = look_while(inside_, kClosed, false);
    if (inside != kClosed) inside_.wait(inside, std::memory_order_acquire);
  }
}

// False when all tasks of the region have been taken.
bool ThreadPool::enter() {
  uint32_t inside = inside_.load(std::memory_order_relaxed);
  while ((inside & kClosed) == 0) {
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::leave() {
  if (inside_.fetch_sub(1, std::memory_order_seq_cst) == (kClosed | 1)) inside_.notify_one();
}

// A node's own share, then what others have left of theirs.
void ThreadPool::drain(Task task, size_t home) {
  for (size_t i = 0; i < shares_.size(); ++i) {
    drain_share(task, &shares_[(home + i) % shares_.size()]);
  }
}

// Runs of tasks, shorter and shorter ones: kernels lay out neighbouring tasks side by side in
// memory, and a thread that was held up holds up the others by one of the last ones only.
void ThreadPool::drain_share(Task task, Share* share) {
  const auto parts = static_cast<int64_t>(2 * (workers_.size() + 1));
  int64_t first = share->next.load(std::memory_order_relaxed);
  while (first < share->end) {
    const int64_t n = (share->end - first + parts - 1) / parts;
    if (!share->next.compare_exchange_weak(first, first + n, std::memory_order_relaxed)) continue;
    for (int64_t i = first; i < first + n; ++i) task(i);
    first = share->next.load(std::memory_order_relaxed);
  }
}

void ThreadPool::work(size_t home) {
  uint32_t seen = 0;
  WorkWait next;
  while (true) {
    next.wait(region_, seen);
    seen = region_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!enter()) continue;
    drain(*task_, home);
    leave();
  }
}

}  // namespace tandem
