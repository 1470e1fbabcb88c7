// Every system on every cell of a grid.
#pragma once

#include <vector>

#include "bench/scheduling/studies.h"
#include "bench/scheduling/systems.h"
#include "bench/scheduling/table.h"

namespace tandem::bench {

// Simulates them all, decoding or with prompts of options.prefill tokens, and writes a CSV row for
// each. Groups of the table: "all", the share of the cache, the machine, the workload.
RatioTable run_cells(const StudyOptions& options, const std::vector<System>& systems);

}  // namespace tandem::bench
