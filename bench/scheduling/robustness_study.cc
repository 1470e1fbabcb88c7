#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bench/scheduling/cells.h"

namespace tandem::bench {
namespace {

using Field = double& (*)(MachineProfile&);
struct Term {
  const char* name;
  Field field;
};
constexpr std::array kTerms = {
    Term{"cpu.read_gbps", [](MachineProfile& m) -> double& { return m.cpu.read_gbps; }},
    Term{"cpu.gflops", [](MachineProfile& m) -> double& { return m.cpu.gflops; }},
    Term{"cpu.first_expert_us", [](MachineProfile& m) -> double& { return m.cpu.first_expert_us; }},
    Term{"gpu.read_gbps", [](MachineProfile& m) -> double& { return m.gpu.read_gbps; }},
    Term{"gpu.gflops", [](MachineProfile& m) -> double& { return m.gpu.gflops; }},
    Term{"gpu.launch_us", [](MachineProfile& m) -> double& { return m.gpu.launch_us; }},
    Term{"link.h2d_gbps", [](MachineProfile& m) -> double& { return m.link.h2d_gbps; }},
    Term{"link.latency_us", [](MachineProfile& m) -> double& { return m.link.latency_us; }},
    Term{"dram_gbps", [](MachineProfile& m) -> double& { return m.dram_gbps; }},
    Term{"layer_overhead_us", [](MachineProfile& m) -> double& { return m.layer_overhead_us; }},
};

// What is believed about a machine: its profile with some terms off by a factor.
struct Belief {
  std::string name;
  std::vector<std::pair<Field, double>> errors;

  MachineProfile of(const MachineProfile& machine) const {
    MachineProfile believed = machine;
    for (const auto& [field, factor] : errors) field(believed) *= factor;
    return believed;
  }
};

std::vector<Belief> beliefs(double error) {
  std::vector<Belief> all;
  for (const Term& term : kTerms) {
    for (const double sign : {1.0, -1.0}) {
      all.push_back({fmt::format("{} {:+.0f} %", term.name, 100 * sign * error),
                     {{term.field, 1 + sign * error}}});
    }
  }
  const auto find = [](std::string_view name) {
    return std::find_if(kTerms.begin(), kTerms.end(),
                        [&](const Term& term) { return name == term.name; })
        ->field;
  };
  // Overrating the link while underrating the CPU; both CPU rates, or decoding would hide one.
  const std::vector<std::pair<Field, double>> worst = {{find("link.h2d_gbps"), 1 + error},
                                                       {find("cpu.read_gbps"), 1 - error},
                                                       {find("cpu.gflops"), 1 - error}};
  all.push_back({fmt::format("link {:+.0f} %, CPU {:+.0f} %", 100 * error, -100 * error), worst});
  return all;
}

std::string kept(const Belief& belief) { return belief.name + ", kept"; }
std::string learnt(const Belief& belief) { return belief.name + ", calibrated"; }

void print_table(const RatioTable& table, const std::string& group,
                 const std::vector<Belief>& all) {
  fmt::print("\n{}, {} cells; modelled\n\n", group, table.cells(group));
  fmt::print("| believed | loss, % | calibrated, % | won back |\n|---|---|---|---|\n");
  for (const Belief& belief : all) {
    const double off = table.mean(group, kept(belief), "right");
    const double on = table.mean(group, learnt(belief), "right");
    const double lost = 100 * (1 - off);
    // Of a loss that differently broken ties could make, no share is told.
    const std::string share =
        lost > 0.1 ? fmt::format("{:.0f} %", 100 * (1 - std::log(on) / std::log(off))) : "";
    fmt::print("| {} | {:.2f} | {:.2f} | {} |\n", belief.name, lost, 100 * (1 - on), share);
  }
}

void print_worst(const RatioTable& table, const std::vector<Belief>& all) {
  fmt::print("\nSmallest speed over static placement of one cell, and over the right profile:\n\n");
  fmt::print(
      "| believed | over static | calibrated | over right | calibrated | where, calibrated |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  const auto [right, where] = table.least("right", "static");
  fmt::print("| right | {:.3f} | | | | {} |\n", right, where);
  for (const Belief& belief : all) {
    const auto [over, place] = table.least(learnt(belief), "static");
    fmt::print("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {} |\n", belief.name,
               table.least(kept(belief), "static").first, over,
               table.least(kept(belief), "right").first, table.least(learnt(belief), "right").first,
               place);
  }
}

// The speeds of one cell: "static", "right", "right, calibrated", and two for each belief.
std::map<std::string, double> simulate_cell(SimInput input, const std::vector<Belief>& all,
                                            SchedulingSettings ours) {
  std::map<std::string, double> speeds;
  const auto run = [&](const std::string& name, bool calibrate) {
    ours.calibrate = calibrate;
    speeds[name] = simulate(input, ours).tokens_per_second();
  };
  const System fixed = fixed_placement("static", "ktransformers", false);
  speeds["static"] = simulate(input, fixed.settings).tokens_per_second();
  run("right", false);
  run("right, calibrated", true);
  for (const Belief& belief : all) {
    const MachineProfile believed = belief.of(*input.machine);
    input.believed = &believed;
    run(kept(belief), false);
    run(learnt(belief), true);
  }
  return speeds;
}

}  // namespace

void robustness_study(const StudyOptions& options, double error) {
  const SchedulingSettings ours = from_policy("tandem", options.ours).settings;
  const std::vector<Belief> all = beliefs(error);
  RatioTable table;
  if (options.csv != nullptr) {
    fmt::print(options.csv,
               "machine,workload,cache,prefill,believed,static_tps,right_tps,kept_tps,"
               "calibrated_tps\n");
  }
  for_cells(options, [&](const Workload& load, const MachineProfile& machine, double share,
                         SimInput* input) {
    input->contents = Contents::kHot;
    input->hot = learning_rows(input->steps);
    const auto speeds = simulate_cell(*input, all, ours);
    table.add(cell_groups(load, machine, share), speeds);
    if (options.csv == nullptr) return;
    for (const Belief& belief : all) {
      fmt::print(options.csv, "{},{},{},{},\"{}\",{:.7g},{:.7g},{:.7g},{:.7g}\n", machine.name,
                 load.name, share, options.prefill, belief.name, speeds.at("static"),
                 speeds.at("right"), speeds.at(kept(belief)), speeds.at(learnt(belief)));
    }
  });
  if (table.groups().empty()) return;
  print_table(table, "all", all);
  print_worst(table, all);
  const auto [least, where] = table.least("right, calibrated", "right");
  fmt::print("\nCalibration beside the right profile: {:.5f} at least ({})\n", least, where);
}

}  // namespace tandem::bench
