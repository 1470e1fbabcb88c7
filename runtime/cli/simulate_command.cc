// tandem simulate: the engine's planner, cache and prefetcher on a virtual clock.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/simulate_rows.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/model_shape.h"
#include "runtime/config/scheduling_policy.h"
#include "runtime/error.h"
#include "runtime/trace/trace_file.h"
#include "scheduler/placement.h"
#include "scheduler/predictor.h"
#include "scheduler/synthetic_trace.h"

namespace tandem {
namespace {

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
  int64_t seed = 1;
  bool no_bounds = false;
  std::string output = "md";
  bool json = false;
  std::string timeline;
};

// A trace and the shape that goes with it: sizes of experts come from the trace where it has them,
// and so does the number of experts a token uses.
struct Workload {
  std::string trace_name;
  ModelShape shape;
  Trace trace;
};

Workload load_workload(const std::string& spec, const std::string& model, int64_t seed) {
  Workload load;
  load.shape = load_model_shape(model);
  load.trace_name = spec;
  if (is_synthetic_trace(spec)) {
    SyntheticTraceSettings settings;
    settings.n_layers = load.shape.n_layers;
    settings.n_experts = load.shape.n_experts;
    settings.top_k = load.shape.top_k;
    settings.seed = static_cast<uint64_t>(seed);
    std::string wrong = parse_synthetic_trace(spec, settings);
    if (wrong.empty()) wrong = check_synthetic_trace(settings);
    if (!wrong.empty()) throw ConfigError(fmt::format("--trace {}: {}", spec, wrong));
    load.trace = make_synthetic_trace(settings);
  } else {
    load.trace = read_trace(spec);
  }
  const TraceHeader& header = load.trace.header;
  check_trace_fits(load.trace, load.shape.n_layers, load.shape.n_experts, header.top_k, "");
  load.shape.top_k = header.top_k;
  const auto& bytes = header.expert_bytes;
  if (!bytes.empty() && std::all_of(bytes.begin(), bytes.end(), [](int64_t b) { return b > 0; })) {
    load.shape.expert_bytes = bytes;
  }
  return load;
}

// "25%" of all experts, or "4096" MiB.
int64_t capacity(const std::string& text, const ModelShape& shape) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit(end);
  constexpr double kMostMib = 1 << 24;
  const bool share = unit == "%";
  if (end == text.c_str() || (!share && !unit.empty()) || !(value >= 0) ||
      value > (share ? 100 : kMostMib)) {
    throw ConfigError(fmt::format(
        "--cache is \"{}\"; expected a share of all experts, such as 25%, or MiB", text));
  }
  const double all = static_cast<double>(std::accumulate(shape.expert_bytes.begin(),
                                                         shape.expert_bytes.end(), int64_t{0})) *
                     shape.n_experts;
  return static_cast<int64_t>(share ? all * value / 100 : value * (1 << 20));
}

// Each policy, with each of the planners and predictors that are asked for instead of its own.
std::vector<SchedulingSettings> list_settings(const SimulateOptions& options) {
  std::vector<SchedulingSettings> all;
  for (const std::string& name : options.policies) {
    const SchedulingSettings own = load_scheduling_policy(name);
    const auto planners =
        options.planners.empty() ? std::vector<std::string>{own.planner} : options.planners;
    const auto predictors =
        options.predictors.empty() ? std::vector<std::string>{own.predictor} : options.predictors;
    for (const std::string& planner : planners) {
      for (const std::string& predictor : predictors) {
        all.push_back(own);
        all.back().planner = planner;
        all.back().predictor = predictor;
      }
    }
  }
  return all;
}

class Sweep {
 public:
  explicit Sweep(const SimulateOptions& options)
      : options_(options), settings_(list_settings(options)) {
    for (const std::string& name : options.machines) {
      machines_.push_back(load_machine_profile(name));
    }
    total_ = options.traces.size() * options.models.size() * machines_.size() *
             options.cache.size() * settings_.size() * std::max<size_t>(options.prefill.size(), 1);
  }

  std::vector<SimulateRow> run() {
    for (const std::string& model : options_.models) {
      for (const std::string& spec : options_.traces) {
        progress_.show(fmt::format("trace {} for {}", spec, model));
        const Workload load = load_workload(spec, model, options_.seed);
        for (const MachineProfile& machine : machines_) {
          for (const std::string& cache : options_.cache) run_cell(load, machine, cache);
        }
      }
    }
    progress_.clear();
    return std::move(rows_);
  }
  const Timeline& timeline() const { return timeline_; }

 private:
  void run_cell(const Workload& load, const MachineProfile& machine, const std::string& cache) {
    SimInput input;
    input.trace = &load.trace;
    input.shape = &load.shape;
    input.machine = &machine;
    input.capacity_bytes = capacity(cache, load.shape);
    input.lookahead = {!options_.recorded, options_.recall, options_.recall_drop,
                       static_cast<uint64_t>(options_.seed)};
    SimInput decode = input;
    decode.steps = decode_steps(load.trace);
    decode.contents = Contents::kHot;
    decode.hot = learning_rows(decode.steps);
    const auto [clairvoyant, bound] = bounds(decode);
    const std::vector<Prefill> prefills = list_prefills(load, input);
    for (const SchedulingSettings& settings : settings_) {
      progress_.show_count("simulating", static_cast<int64_t>(rows_.size()),
                           static_cast<int64_t>(total_));
      SimulateRow row;
      row.machine = machine.name;
      row.model = load.shape.name;
      row.trace = load.trace_name;
      row.cache = cache.back() == '%' ? cache : cache + " MiB";
      row.settings = settings;
      row.clairvoyant_decode_tps = clairvoyant;
      row.bound_decode_tps = bound;
      // The picture shows the first row's decoding.
      decode.timeline = rows_.empty() && !options_.timeline.empty() ? &timeline_ : nullptr;
      row.decode = simulate(decode, settings);
      if (prefills.empty()) rows_.push_back(row);
      for (const Prefill& prefill : prefills) {
        row.prefill_tokens = prefill.n_tokens;
        row.prefill = simulate(prefill.input, settings);
        row.bound_prefill_tps = prefill.bound;
        rows_.push_back(row);
      }
    }
  }

  struct Prefill {
    int32_t n_tokens = 0;
    SimInput input;
    std::optional<double> bound;
  };

  std::vector<Prefill> list_prefills(const Workload& load, const SimInput& input) const {
    std::vector<Prefill> prefills;
    for (const int64_t n : options_.prefill) {
      Prefill& prefill = prefills.emplace_back();
      prefill.n_tokens = static_cast<int32_t>(n);
      prefill.input = input;
      prefill.input.steps = prefill_steps(load.trace, prefill.n_tokens);
      if (prefill.input.steps.empty()) {
        throw ConfigError(
            fmt::format("--prefill {}: the trace {} has {} tokens; at least two prompts are needed",
                        n, load.trace_name, load.trace.n_tokens()));
      }
      prefill.input.contents = Contents::kHot;
      prefill.input.hot = learning_rows(prefill.input.steps);
      prefill.bound = bounds(prefill.input).second;
    }
    return prefills;
  }

  // The achievable clairvoyant and the strict bound.
  std::pair<std::optional<double>, std::optional<double>> bounds(SimInput input) const {
    if (options_.no_bounds) return {};
    input.timeline = nullptr;
    const double clairvoyant =
        simulate(input, load_scheduling_policy("clairvoyant")).tokens_per_second();
    input.contents = Contents::kEverything;
    SchedulingSettings ours = load_scheduling_policy(std::string(kDefaultPolicy));
    ours.prefetcher = "none";
    return {clairvoyant, simulate(input, ours).tokens_per_second()};
  }

  const SimulateOptions& options_;
  std::vector<SchedulingSettings> settings_;
  std::vector<MachineProfile> machines_;
  size_t total_ = 0;
  std::vector<SimulateRow> rows_;
  Timeline timeline_;
  Progress progress_;
};

void run_simulate(const SimulateOptions& options) {
  if (!options.timeline.empty()) check_writable(options.timeline);
  Sweep sweep(options);
  const std::vector<SimulateRow> rows = sweep.run();
  if (!options.timeline.empty()) write_file(options.timeline, timeline_json(sweep.timeline()));
  print_out(rows_text(rows, options.output));
}

CLI::Option* add_list(CLI::App* app, const char* flags, std::vector<std::string>* list,
                      const char* type, const char* what) {
  return app->add_option(flags, *list, what)
      ->type_name(type)
      ->delimiter(',')
      ->allow_extra_args(false);
}

std::vector<std::string> names(std::span<const std::string_view> from) {
  return {from.begin(), from.end()};
}

}  // namespace

void add_simulate_command(CLI::App* program) {
  const auto options = std::make_shared<SimulateOptions>();
  CLI::App* app = program->add_subcommand(
      "simulate", "Predict speed on a machine you may not have, from a routing trace");
  app->footer(
      "Example:\n  tandem simulate --trace synthetic:qwen2-57b --model-shape qwen2-57b-a14b "
      "--machine rtx4090-ddr5 --cache 25%,50% --policy tandem,hybrimoe\n"
      "Comma lists are products. Speeds are modelled, never measured.");
  // A synthetic trace has commas of its own.
  app->add_option("--trace", options->traces,
                  "routing: a file, or synthetic[:PRESET][,KEY=VALUE..]; may be repeated")
      ->type_name("T")
      ->allow_extra_args(false)
      ->default_str("synthetic");
  add_list(app, "--model-shape", &options->models, "M,..", "a name in configs/models or a file")
      ->default_str(options->models.front());
  add_list(app, "--machine", &options->machines, "P,..", "a name in configs/machines or a file")
      ->default_str(options->machines.front());
  add_list(app, "--policy", &options->policies, "A,..", "a name in configs/policies or a file")
      ->default_str(options->policies.front());
  add_list(app, "--planner", &options->planners, "N,..", "instead of the policies' own")
      ->check(one_of(names(placement_rule_names())));
  add_list(app, "--predictor", &options->predictors, "N,..", "instead of the policies' own")
      ->check(one_of(names(predictor_names())));
  add_list(app, "--cache,--vram", &options->cache, "C,..",
           "expert cache: a share of all experts (25%) or MiB")
      ->default_str(options->cache.front());
  app->add_option("--prefill", options->prefill, "also read prompts of N tokens")
      ->type_name("N,..")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(whole_number(2, 1 << 20));
  app->add_option("--recall", options->recall, "of the lookahead, one layer ahead")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--recall-drop", options->recall_drop, "of the recall, each further layer")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_flag("--recorded", options->recorded,
                "use the lookahead that the trace recorded, not one of the given recall");
  app->add_option("-s,--seed", options->seed, "of synthetic traces and of the lookahead's errors")
      ->check(whole_number(0, INT64_MAX))
      ->capture_default_str();
  app->add_flag("--no-bounds", options->no_bounds, "leave out clairvoyant and strict bound");
  app->add_option("--timeline", options->timeline,
                  "write the first row's decoding as a trace that Perfetto opens")
      ->type_name("FILE");
  app->add_option("-o,--output", options->output, "form of the results")
      ->type_name("md|csv|json|jsonl")
      ->check(one_of({"md", "csv", "json", "jsonl"}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "the same as -o json");
  app->callback([options] {
    if (options->json) options->output = "json";
    run_simulate(*options);
  });
}

}  // namespace tandem
