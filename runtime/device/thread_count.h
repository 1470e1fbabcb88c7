// How many threads compute.
#pragma once

#include <optional>
#include <string>

#include "runtime/device/cpu_topology.h"

namespace tandem {

struct ThreadCount {
  int n = 1;
  std::string reason;  // what it follows from, and the machine
};

// requested 0: as many as there are physical cores, or fewer where a control group's quota (in
// cores, rounded up) leaves less; otherwise what was requested.
ThreadCount thread_count(int requested, const CpuTopology& cpu, std::optional<double> quota);

}  // namespace tandem
