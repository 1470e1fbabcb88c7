#include "bench/scheduling/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <string_view>

#include "runtime/config/machine_profile.h"
#include "runtime/config/model_shape.h"
#include "runtime/error.h"
#include "runtime/trace/trace_file.h"
#include "scheduler/synthetic_trace.h"

namespace tandem::bench {
namespace {

// Models whose published hit rates a preset is fitted to. The others take the middle of the three.
struct Preset {
  std::string_view model;
  std::string_view trace;
};
constexpr std::array kPresets = {
    Preset{"mixtral-8x7b", "synthetic:mixtral"},
    Preset{"deepseek-v2-lite", "synthetic:deepseek-v2-lite"},
    Preset{"qwen2-57b-a14b", "synthetic:qwen2-57b"},
};
constexpr std::string_view kOtherModels = "synthetic:skew=0.44,topic=0.3,reuse=0.1,memory=0.9";

std::string_view preset_of(const std::string& model) {
  for (const Preset& preset : kPresets) {
    if (preset.model == model) return preset.trace;
  }
  return kOtherModels;
}

// Only the sequences from .. to - 1, numbered from 0: which of them are measured goes by number.
void keep_sequences(Trace* trace, int32_t from, int32_t to) {
  std::erase_if(trace->steps,
                [&](const TraceStep& step) { return step.sequence < from || step.sequence >= to; });
  for (TraceStep& step : trace->steps) step.sequence -= from;
}

// Sizes that a cache needs to know, all experts alike where the trace does not say: no times.
Workload read_without_shape(const std::string& path) {
  Workload load;
  load.trace = read_trace(path);
  const TraceHeader& header = load.trace.header;
  load.shape.name = header.model.empty() ? path : header.model;
  load.shape.n_layers = header.n_layers;
  load.shape.n_experts = header.n_experts;
  load.shape.top_k = header.top_k;
  load.shape.expert_bytes = header.expert_bytes;
  if (header.expert_bytes.empty()) {
    load.shape.expert_bytes.assign(static_cast<size_t>(header.n_layers), 1);
  }
  load.name = load.shape.name + " real";
  return load;
}

Workload read_real(const std::string& text, bool needs_shape) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos) {
    if (!needs_shape) return read_without_shape(text);
    throw ConfigError(fmt::format("--real is \"{}\"; expected FILE=SHAPE[:FROM-TO]", text));
  }
  std::string model = text.substr(equals + 1);
  std::string range;
  if (const size_t colon = model.find(':'); colon != std::string::npos) {
    range = model.substr(colon + 1);
    model.resize(colon);
  }
  Workload load;
  load.shape = load_model_shape(model);
  load.trace = read_trace(text.substr(0, equals));
  if (!range.empty()) {
    char* end = nullptr;
    const long from = std::strtol(range.c_str(), &end, 10);
    const long to = *end == '-' ? std::strtol(end + 1, &end, 10) : -1;
    keep_sequences(&load.trace, static_cast<int32_t>(from), static_cast<int32_t>(to));
    if (*end != '\0' || load.trace.steps.empty()) {
      throw ConfigError(fmt::format("--real {}: no sequences \"{}\"", text, range));
    }
  }
  const TraceHeader& header = load.trace.header;
  check_trace_fits(load.trace, load.shape.n_layers, load.shape.n_experts, header.top_k, "");
  load.shape.top_k = header.top_k;
  const auto& bytes = header.expert_bytes;
  if (!bytes.empty() && std::all_of(bytes.begin(), bytes.end(), [](int64_t b) { return b > 0; })) {
    load.shape.expert_bytes = bytes;
  }
  load.name = load.shape.name + " real" + (range.empty() ? "" : " " + range);
  return load;
}

}  // namespace

Workload make_synthetic(const std::string& model, std::string_view spec, int64_t seed,
                        const GridOptions& options) {
  Workload load;
  load.shape = load_model_shape(model);
  load.name = fmt::format("{} seed {}", load.shape.name, seed);
  SyntheticTraceSettings settings;
  settings.n_layers = load.shape.n_layers;
  settings.n_experts = load.shape.n_experts;
  settings.top_k = load.shape.top_k;
  settings.seed = static_cast<uint64_t>(seed);
  settings.n_sequences = options.sequences;
  settings.n_prompt = options.prompt;
  settings.n_decode = options.decode;
  settings.n_ahead = 0;
  const std::string wrong = parse_synthetic_trace(spec, settings);
  if (!wrong.empty()) throw ConfigError(wrong);
  load.trace = make_synthetic_trace(settings);
  return load;
}

std::vector<Workload> load_workloads(const GridOptions& options) {
  std::vector<Workload> all;
  for (const std::string& text : options.real) all.push_back(read_real(text, options.needs_shapes));
  for (const std::string& model : options.models) {
    for (const int64_t seed : options.seeds)
      all.push_back(make_synthetic(model, preset_of(model), seed, options));
  }
  return all;
}

std::vector<MachineProfile> load_machines(const GridOptions& options) {
  std::vector<MachineProfile> all;
  for (const std::string& name : options.machines) all.push_back(load_machine_profile(name));
  return all;
}

int64_t all_expert_bytes(const ModelShape& shape) {
  return shape.n_experts *
         std::accumulate(shape.expert_bytes.begin(), shape.expert_bytes.end(), int64_t{0});
}

SimInput make_input(const GridOptions& options, const Workload& load, const MachineProfile& machine,
                    double share) {
  SimInput input;
  input.trace = &load.trace;
  input.shape = &load.shape;
  input.machine = &machine;
  input.capacity_bytes =
      static_cast<int64_t>(share * static_cast<double>(all_expert_bytes(load.shape)));
  input.lookahead = {true, options.recall, options.recall_drop, 1};
  return input;
}

}  // namespace tandem::bench
