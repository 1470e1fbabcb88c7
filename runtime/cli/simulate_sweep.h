// All combinations that tandem simulate was asked for, one after the other: loads traces, shapes,
// machines and policies, runs the simulator, shows progress. Used once, by the main thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/cli/progress.h"
#include "runtime/cli/report_page.h"
#include "runtime/cli/simulate_rows.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/scheduling_policy.h"
#include "scheduler/hot_set.h"
#include "scheduler/model_shape.h"
#include "scheduler/simulator.h"

namespace tandem {

struct SimulateOptions {
  std::vector<std::string> traces{"synthetic"};
  std::vector<std::string> models{"qwen3-30b-a3b"};
  std::vector<std::string> machines{std::string(kDefaultMachine)};
  std::vector<std::string> policies{std::string(kDefaultPolicy)};
  std::vector<std::string> planners;    // instead of the policies' own
  std::vector<std::string> predictors;  // likewise
  std::vector<std::string> cache{"25%"};
  std::vector<int64_t> prefill;
  double recall = 0.85;
  double recall_drop = 0.04;
  bool recorded = false;
  std::string expert_bytes = "trace";  // whose sizes of experts: trace or shape
  int64_t seed = 1;
  bool no_bounds = false;
  std::string output = "md";
  bool json = false;
  std::string timeline;
  std::string report;
  std::string hot_set;       // file
  std::string save_hot_set;  // file
};

// A trace and the shape that goes with it: the number of experts a token uses comes from the trace,
// and so do their sizes where it has them, unless the shape's are asked for.
struct Workload {
  std::string trace_name;
  ModelShape shape;
  Trace trace;
};

class Sweep {
 public:
  // The options outlive it. ConfigError and FileError for what cannot be loaded.
  explicit Sweep(const SimulateOptions& options);

  std::vector<SimulateRow> run();
  // Of the first row's decoding; what only a report needs is made only for one.
  const Timeline& timeline() const { return strips_[0].timeline; }
  const HotSet& hot_set() const { return end_; }  // of the first row's decoding, at its end
  Report report() const;                          // after run(), but for the command and the rows

 private:
  struct Bounds {
    std::optional<double> clairvoyant;  // achievable with the future known
    std::optional<double> strict;       // no miss ever
  };
  struct Prefill {
    int32_t n_tokens = 0;
    SimInput input;
    Bounds bounds;
  };

  Contents contents_of(const SchedulingSettings& settings) const;
  void add_hit_rates(const Workload& load);
  Timeline* timeline_for(size_t i, const std::vector<SimStep>& steps);
  void run_cell(const Workload& load, const MachineProfile& machine, const std::string& cache);
  std::vector<Prefill> list_prefills(const Workload& load, const SimInput& input) const;
  Bounds bounds(SimInput input) const;

  const SimulateOptions& options_;
  std::vector<SchedulingSettings> settings_;
  std::vector<MachineProfile> machines_;
  size_t total_ = 0;
  std::vector<SimulateRow> rows_;
  std::array<TimelineStrip, 2> strips_;  // of the first two policies in the first cell
  std::string timeline_of_;
  std::vector<HitRate> hit_rates_;
  std::optional<HotSet> start_;  // from --hot-set
  HotSet end_;
  Progress progress_;
};

}  // namespace tandem
