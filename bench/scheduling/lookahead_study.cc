// What looking ahead is worth, by the recall of what looks: ours, and ours with other predictors
// (scheduler/predictor.h), over ours without any, which fills the idle link with experts that were
// just missed.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "bench/scheduling/cells.h"

namespace tandem::bench {
namespace {

constexpr const char* kNobody = "fills only";

System with_predictor(const std::string& name, const std::string& ours, const char* predictor) {
  System system = from_policy(name, ours);
  system.settings.predictor = predictor;
  return system;
}

struct Waste {
  double sum = 0;  // of the cells' shares of bytes that were sent for nothing
  double most = 0;
  int64_t cells = 0;
  void add(double share) {
    sum += share;
    most = std::max(most, share);
    ++cells;
  }
};

double wasted_share(const SimResult& result) {
  const int64_t bytes = result.totals.bytes_demand + result.totals.bytes_prefetched;
  return bytes > 0 ? static_cast<double>(result.transfers.wasted_bytes) / static_cast<double>(bytes)
                   : 0;
}

void print_recall(double recall, const RatioTable& table, const std::vector<System>& systems,
                  const Waste& waste) {
  fmt::print("| {} ", recall);
  for (const System& system : systems) {
    if (system.name != kNobody) {
      fmt::print("| {:.3f}, {:.3f} ", table.mean("all", system.name, kNobody),
                 table.least(system.name, kNobody).first);
    }
  }
  fmt::print("| {:.0f}, {:.0f} |\n", 100 * waste.sum / static_cast<double>(waste.cells),
             100 * waste.most);
}

}  // namespace

void lookahead_study(const StudyOptions& options, const std::vector<double>& recalls) {
  const std::vector<System> systems{
      from_policy("tandem", options.ours), with_predictor("ladder", options.ours, "ladder"),
      with_predictor("previous token", options.ours, "previous-token"),
      with_predictor(kNobody, options.ours, "none")};
  if (options.csv != nullptr) {
    fmt::print(options.csv, "recall,machine,workload,cache,system,tps,hit_rate,wasted_share\n");
  }
  fmt::print(
      "\nDecoding over {}: geometric mean, least cell; waste of tandem in per cent: mean, "
      "most; modelled\n\n| recall | tandem | ladder | previous token | waste |\n"
      "|---|---|---|---|---|\n",
      kNobody);
  for (const double recall : recalls) {
    StudyOptions now = options;
    now.grid.recall = recall;
    RatioTable table;
    Waste waste;
    for_cells(now, [&](const Workload& load, const MachineProfile& machine, double share,
                       SimInput* input) {
      std::map<std::string, double> speeds;
      for (const System& system : systems) {
        input->contents = system.contents;
        input->hot = learning_rows(input->steps);
        const SimResult result = simulate(*input, system.settings);
        speeds[system.name] = result.tokens_per_second();
        const double wasted = wasted_share(result);
        if (system.name == "tandem") waste.add(wasted);
        if (options.csv == nullptr) continue;
        fmt::print(options.csv, "{},{},{},{},{},{:.6g},{:.5f},{:.4f}\n", recall, machine.name,
                   load.name, share, system.name, result.tokens_per_second(), result.hit_rate(),
                   wasted);
      }
      table.add(cell_groups(load, machine, share), speeds);
    });
    print_recall(recall, table, systems, waste);
    const auto [ratio, where] = table.least("tandem", kNobody);
    fmt::print(stderr, "recall {}: least {:.3f} at {}\n", recall, ratio, where);
  }
}

}  // namespace tandem::bench
