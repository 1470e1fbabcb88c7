// Tasks of a ParallelFor may not throw. These may: reading a file can fail.
#pragma once

#include <exception>
#include <mutex>

#include "kernels/parallel.h"

namespace tandem {

// parallel(n_tasks, task); when all have ended, throws what the first to fail threw.
inline void run_throwing(ParallelFor parallel, int64_t n_tasks, Task task) {
  std::mutex mutex;
  std::exception_ptr first;
  parallel(n_tasks, [&](int64_t i) {
    try {
      task(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

}  // namespace tandem
