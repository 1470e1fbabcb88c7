#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "bench/scheduling/studies.h"
#include "bench/scheduling/systems.h"
#include "bench/scheduling/table.h"

namespace tandem::bench {
namespace {

std::vector<int32_t> measured_rows(const std::vector<SimStep>& steps) {
  std::vector<int32_t> rows;
  for (const SimStep& step : steps) {
    if (step.measured) rows.insert(rows.end(), step.rows.begin(), step.rows.end());
  }
  return rows;
}

void print_row(const RatioTable& table, const std::string& group,
               const std::vector<System>& systems) {
  fmt::print("| {} | {} ", group, table.cells(group));
  for (const System& system : systems) {
    if (system.name != "tandem") fmt::print("| {:.3f} ", table.mean(group, "tandem", system.name));
  }
  fmt::print("| {:.2f} |\n", table.share(group, "tandem", "hybrimoe", "clairvoyant"));
}

void print_table(const RatioTable& table, const std::vector<System>& systems) {
  fmt::print("\nSpeed of tandem over the others', geometric means; modelled\n\n| cells | n ");
  for (const System& system : systems) {
    if (system.name != "tandem") fmt::print("| {} ", system.name);
  }
  fmt::print("| share of the clairvoyant gain |\n|---|---|");
  for (size_t i = 0; i < systems.size(); ++i) fmt::print("---|");
  fmt::print("\n");
  for (const std::string& group : table.groups()) print_row(table, group, systems);
  fmt::print("\nSmallest ratios of one cell:\n");
  for (const System& system : systems) {
    if (system.name == "tandem") continue;
    const auto [ratio, where] = table.least("tandem", system.name);
    fmt::print("- over {}: {:.3f} ({})\n", system.name, ratio, where);
  }
}

}  // namespace

void speed_study(const StudyOptions& options) {
  std::vector<System> systems = speed_systems(options.ours, options.prefill > 0);
  std::erase_if(systems, [&](const System& system) {
    const auto& wanted = options.systems;
    return !wanted.empty() && system.name != "tandem" &&
           std::find(wanted.begin(), wanted.end(), system.name) == wanted.end();
  });
  RatioTable table;
  if (options.csv != nullptr) {
    fmt::print(options.csv, "machine,workload,cache,prefill,system,tps,hit_rate,seconds,tokens\n");
  }
  for (const Workload& load : load_workloads(options.grid)) {
    const auto steps =
        options.prefill > 0 ? prefill_steps(load.trace, options.prefill) : decode_steps(load.trace);
    if (steps.empty()) continue;  // too few tokens for two prompts
    for (const MachineProfile& machine : load_machines(options.grid)) {
      for (const double share : options.grid.shares) {
        SimInput input = make_input(options.grid, load, machine, share);
        input.steps = steps;
        std::map<std::string, double> speeds;
        for (const System& system : systems) {
          input.contents = system.contents;
          input.hot = system.hindsight ? measured_rows(steps) : learning_rows(steps);
          const SimResult result = simulate(input, system.settings);
          speeds[system.name] = result.tokens_per_second();
          if (options.csv == nullptr) continue;
          fmt::print(options.csv, "{},{},{},{},{},{:.6g},{:.5f},{:.6g},{}\n", machine.name,
                     load.name, share, options.prefill, system.name, result.tokens_per_second(),
                     result.hit_rate(), result.totals.seconds, result.tokens);
        }
        table.add({"all", fmt::format("{:.0f} %", share * 100), machine.name, load.name}, speeds);
      }
      fmt::print(stderr, ".");
    }
  }
  fmt::print(stderr, "\n");
  print_table(table, systems);
}

}  // namespace tandem::bench
