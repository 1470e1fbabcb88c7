// How a kernel spreads its work: it is handed a ParallelFor and calls it with a number of
// independent tasks. Owner: the runtime's thread pool. Tests pass serial_for.
#pragma once

#include <cstdint>

#include "kernels/function_ref.h"

namespace tandem {

using Task = FunctionRef<void(int64_t task)>;
// Runs task(0) … task(n_tasks - 1), in any order and on any threads, and returns when all ended.
using ParallelFor = FunctionRef<void(int64_t n_tasks, Task task)>;

inline void serial_for(int64_t n_tasks, Task task) {
  for (int64_t i = 0; i < n_tasks; ++i) task(i);
}

}  // namespace tandem
