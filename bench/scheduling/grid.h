// The cells of a study: machines x workloads x shares of the experts that fit the cache.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/machine_profile.h"
#include "scheduler/model_shape.h"
#include "scheduler/simulator.h"
#include "scheduler/trace.h"

namespace tandem::bench {

// A trace and the shape that goes with it.
struct Workload {
  std::string name;  // of the model, and where the routing is from
  ModelShape shape;
  Trace trace;
};

struct GridOptions {
  std::vector<std::string> real;      // FILE=SHAPE[:FROM-TO], the sequences from .. to - 1
  bool needs_shapes = true;           // for times; else FILE alone is enough
  std::vector<std::string> models;    // whose routing is synthetic
  std::vector<std::string> machines;  // profiles
  std::vector<int64_t> seeds;         // of synthetic traces
  std::vector<double> shares{0.25, 0.5, 0.75};
  int32_t prompt = 64;  // tokens of a synthetic sequence
  int32_t decode = 96;
  int32_t sequences = 4;
  double recall = 0.85;
  double recall_drop = 0.04;
};

// A trace as a spec of scheduler/synthetic_trace.h says, with the model's layers and experts.
// ConfigError with what is wrong.
Workload make_synthetic(const std::string& model, std::string_view spec, int64_t seed,
                        const GridOptions& options);
// ConfigError or FileError with what is wrong.
std::vector<Workload> load_workloads(const GridOptions& options);
std::vector<MachineProfile> load_machines(const GridOptions& options);

int64_t all_expert_bytes(const ModelShape& shape);

// What all studies start from; steps, contents and more are theirs to set.
SimInput make_input(const GridOptions& options, const Workload& load, const MachineProfile& machine,
                    double share);

}  // namespace tandem::bench
