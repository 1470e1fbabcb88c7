// Every system on every cell of a grid.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/scheduling/studies.h"
#include "bench/scheduling/systems.h"
#include "bench/scheduling/table.h"

namespace tandem::bench {

// Calls visit(load, machine, share, input) for each cell, decoding or with prompts of
// options.prefill tokens. What the cache holds at the start is the visitor's to set.
using CellVisit = std::function<void(const Workload&, const MachineProfile&, double, SimInput*)>;
void for_cells(const StudyOptions& options, const CellVisit& visit);

// Groups of a cell in a RatioTable: "all", the share of the cache, the machine, the workload.
std::vector<std::string> cell_groups(const Workload& load, const MachineProfile& machine,
                                     double share);

// Simulates them all, decoding or with prompts of options.prefill tokens, and writes a CSV row for
// each.
RatioTable run_cells(const StudyOptions& options, const std::vector<System>& systems);

}  // namespace tandem::bench
