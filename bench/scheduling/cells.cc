#include "bench/scheduling/cells.h"

#include <fmt/format.h>

#include <map>
#include <string>

namespace tandem::bench {
namespace {

std::vector<int32_t> measured_rows(const std::vector<SimStep>& steps) {
  std::vector<int32_t> rows;
  for (const SimStep& step : steps) {
    if (step.measured) rows.insert(rows.end(), step.rows.begin(), step.rows.end());
  }
  return rows;
}

std::map<std::string, double> run_cell(const StudyOptions& options, const Workload& load,
                                       const std::vector<System>& systems, double share,
                                       SimInput* input) {
  std::map<std::string, double> speeds;
  for (const System& system : systems) {
    input->contents = system.contents;
    input->hot = system.hindsight ? measured_rows(input->steps) : learning_rows(input->steps);
    const SimResult result = simulate(*input, system.settings);
    speeds[system.name] = result.tokens_per_second();
    if (options.csv == nullptr) continue;
    fmt::print(options.csv, "{},{},{},{},{},{:.6g},{:.5f},{:.6g},{}\n", input->machine->name,
               load.name, share, options.prefill, system.name, result.tokens_per_second(),
               result.hit_rate(), result.totals.seconds, result.tokens);
  }
  return speeds;
}

}  // namespace

std::vector<std::string> cell_groups(const Workload& load, const MachineProfile& machine,
                                     double share) {
  return {"all", fmt::format("{:.0f} %", share * 100), machine.name, load.name};
}

void for_cells(const StudyOptions& options, const CellVisit& visit) {
  for (const Workload& load : load_workloads(options.grid)) {
    const auto steps =
        options.prefill > 0 ? prefill_steps(load.trace, options.prefill) : decode_steps(load.trace);
    if (steps.empty()) continue;  // too few tokens for two prompts
    for (const MachineProfile& machine : load_machines(options.grid)) {
      for (const double share : options.grid.shares) {
        SimInput input = make_input(options.grid, load, machine, share);
        input.steps = steps;
        visit(load, machine, share, &input);
      }
      fmt::print(stderr, ".");
    }
  }
  fmt::print(stderr, "\n");
}

RatioTable run_cells(const StudyOptions& options, const std::vector<System>& systems) {
  RatioTable table;
  if (options.csv != nullptr) {
    fmt::print(options.csv, "machine,workload,cache,prefill,system,tps,hit_rate,seconds,tokens\n");
  }
  for_cells(options, [&](const Workload& load, const MachineProfile& machine, double share,
                         SimInput* input) {
    table.add(cell_groups(load, machine, share), run_cell(options, load, systems, share, input));
  });
  return table;
}

}  // namespace tandem::bench
