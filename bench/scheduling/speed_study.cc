#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bench/scheduling/cells.h"

namespace tandem::bench {
namespace {

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
  print_table(run_cells(options, systems), systems);
}

}  // namespace tandem::bench
