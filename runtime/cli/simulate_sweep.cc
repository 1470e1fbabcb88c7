#include "runtime/cli/simulate_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include "runtime/config/hot_set.h"
#include "runtime/config/model_shape.h"
#include "runtime/error.h"
#include "runtime/model/router_hash.h"
#include "runtime/model/shape_of_model.h"
#include "runtime/trace/trace_file.h"
#include "scheduler/make_scheduling.h"
#include "scheduler/predictor.h"
#include "scheduler/synthetic_trace.h"

namespace tandem {
namespace {

ModelShape load_shape(const std::string& name_or_path, std::string* hash) {
  if (std::filesystem::path(name_or_path).extension() != ".gguf") {
    return load_model_shape(name_or_path);
  }
  const Model model = Model::load(GgufFile::open(name_or_path));
  *hash = router_hash(model);
  return shape_of(model);
}

Workload load_workload(const std::string& spec, const std::string& model,
                       const SimulateOptions& options) {
  Workload load;
  std::string hash;  // of a file's routers; a shape alone has none
  load.shape = load_shape(model, &hash);
  load.trace_name = spec;
  if (is_synthetic_trace(spec)) {
    SyntheticTraceSettings settings;
    settings.n_layers = load.shape.n_layers;
    settings.n_experts = load.shape.n_experts;
    settings.top_k = load.shape.top_k;
    settings.seed = static_cast<uint64_t>(options.seed);
    std::string wrong = parse_synthetic_trace(spec, settings);
    if (wrong.empty()) wrong = check_synthetic_trace(settings);
    if (!wrong.empty()) throw ConfigError(fmt::format("--trace {}: {}", spec, wrong));
    load.trace = make_synthetic_trace(settings);
  } else {
    load.trace = read_trace(spec);
  }
  const TraceHeader& header = load.trace.header;
  if (options.recorded && header.n_ahead == 0) {
    throw ConfigError(fmt::format("--recorded: the trace {} holds no predictions", spec));
  }
  check_trace_fits(load.trace, load.shape.n_layers, load.shape.n_experts, header.top_k, hash);
  load.shape.top_k = header.top_k;
  const auto& bytes = header.expert_bytes;
  if (options.expert_bytes == "trace" && !bytes.empty() &&
      std::all_of(bytes.begin(), bytes.end(), [](int64_t b) { return b > 0; })) {
    load.shape.expert_bytes = bytes;
  }
  return load;
}

HotSetModel hot_set_model(const Workload& load) {
  return {load.shape.name, load.trace.header.model_hash, load.shape.n_layers, load.shape.n_experts};
}

// What the predictor of such settings reads.
std::optional<std::string> lookahead_of(const SimulateOptions& options, const Trace& trace,
                                        const SchedulingSettings& settings) {
  if (gate_reuse_distance(settings) == 0) return {};
  if (options.recorded) return trace.header.lookahead + " (recorded)";
  return fmt::format("oracle {}", options.recall);
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

std::string with_unit(const std::string& cache) {
  return cache.back() == '%' ? cache : cache + " MiB";
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
        if (needs_tables(predictor)) {
          throw ConfigError(
              fmt::format("policy {}: the predictor {} needs a model's tables; only an engine has "
                          "them, and its trace what they say (--recorded, predictor gate-reuse)",
                          own.name, predictor));
        }
        if (own.prefetcher == "hybrimoe" && predictor == "none") {
          throw ConfigError(fmt::format(
              "--predictor none: the prefetcher hybrimoe of policy {} needs one", own.name));
        }
      }
    }
  }
  return all;
}

}  // namespace

Sweep::Sweep(const SimulateOptions& options)
    : options_(options), settings_(list_settings(options)) {
  for (const std::string& name : options.machines) {
    machines_.push_back(load_machine_profile(name));
  }
  if (!options.hot_set.empty()) start_ = load_hot_set(options.hot_set);
  const PolicyInfo* first = find_eviction_policy(settings_.front().policy);
  if (!options.save_hot_set.empty() && first->needs_future) {
    throw ConfigError(
        fmt::format("--save-hot-set: the first policy's eviction is {}, whose values are next uses "
                    "of one trace",
                    first->name));
  }
  total_ = options.traces.size() * options.models.size() * machines_.size() * options.cache.size() *
           settings_.size() * std::max<size_t>(options.prefill.size(), 1);
}

std::vector<SimulateRow> Sweep::run() {
  for (const std::string& model : options_.models) {
    for (const std::string& spec : options_.traces) {
      progress_.show(fmt::format("trace {} for {}", spec, model));
      const Workload load = load_workload(spec, model, options_);
      if (start_) check_hot_set(*start_, hot_set_model(load), options_.hot_set);
      if (!options_.report.empty()) add_hit_rates(load);
      for (const MachineProfile& machine : machines_) {
        for (const std::string& cache : options_.cache) run_cell(load, machine, cache);
      }
    }
  }
  progress_.clear();
  return std::move(rows_);
}

// A saved hot set stands in for contents that would be learned.
Contents Sweep::contents_of(const SchedulingSettings& settings) const {
  return start_ && settings.contents == Contents::kHot ? Contents::kSaved : settings.contents;
}

void Sweep::add_hit_rates(const Workload& load) {
  for (size_t i = 0; i < options_.cache.size(); ++i) {
    progress_.show_count("replaying", static_cast<int64_t>(i),
                         static_cast<int64_t>(options_.cache.size()));
    const std::string& cache = options_.cache[i];
    HitRate same;
    same.model = load.shape.name;
    same.trace = load.trace_name;
    same.cache = with_unit(cache);
    same.cache_bytes = capacity(cache, load.shape);
    const auto rates = replay_hit_rates(load.trace, load.shape, settings_, same);
    hit_rates_.insert(hit_rates_.end(), rates.begin(), rates.end());
  }
}

// A report shows one token: the one in the middle of those that are measured.
Timeline* Sweep::timeline_for(size_t i, const std::vector<SimStep>& steps) {
  const bool whole = i == 0 && !options_.timeline.empty();
  if (i >= strips_.size() || (options_.report.empty() && !whole)) return nullptr;
  std::vector<int64_t> measured;
  for (size_t s = 0; s < steps.size(); ++s) {
    if (steps[s].measured) measured.push_back(static_cast<int64_t>(s) + 1);
  }
  TimelineStrip& strip = strips_[i];
  strip.name = settings_[i].name;
  strip.step = measured.empty() ? 0 : measured[measured.size() / 2];
  if (!whole) {
    strip.timeline.first_step = strip.step - 1;
    strip.timeline.last_step = strip.step;
  }
  return &strip.timeline;
}

Report Sweep::report() const {
  Report report;
  report.seed = options_.seed;
  report.hit_rates = hit_rates_;
  report.timeline_of = timeline_of_;
  report.strips.assign(strips_.begin(), strips_.end());
  return report;
}

void Sweep::run_cell(const Workload& load, const MachineProfile& machine,
                     const std::string& cache) {
  SimInput input;
  input.trace = &load.trace;
  input.shape = &load.shape;
  input.machine = &machine;
  input.capacity_bytes = capacity(cache, load.shape);
  input.lookahead = {!options_.recorded, options_.recall, options_.recall_drop,
                     static_cast<uint64_t>(options_.seed)};
  input.lookahead.exact =
      options_.recorded && load.trace.header.lookahead == LookaheadName::kDecoupled;
  if (start_) input.saved = &*start_;
  input.contents = start_ ? Contents::kSaved : Contents::kHot;
  SimInput decode = input;
  decode.steps = decode_steps(load.trace);
  decode.hot = learning_rows(decode.steps);
  const Bounds decode_bounds = bounds(decode);
  std::vector<Prefill> prefills = list_prefills(load, input);
  const bool first = rows_.empty();
  if (first) {
    timeline_of_ = fmt::format("{} · {} · {} · cache {}", machine.name, load.shape.name,
                               load.trace_name, with_unit(cache));
  }
  for (size_t i = 0; i < settings_.size(); ++i) {
    const SchedulingSettings& settings = settings_[i];
    progress_.show_count("simulating", static_cast<int64_t>(rows_.size()),
                         static_cast<int64_t>(total_));
    SimulateRow row;
    row.machine = machine.name;
    row.model = load.shape.name;
    row.trace = load.trace_name;
    row.cache = with_unit(cache);
    row.cache_bytes = input.capacity_bytes;
    row.settings = settings;
    row.lookahead = lookahead_of(options_, load.trace, settings);
    row.clairvoyant_decode_tps = decode_bounds.clairvoyant;
    row.bound_decode_tps = decode_bounds.strict;
    decode.contents = contents_of(settings);
    decode.end = rows_.empty() && !options_.save_hot_set.empty() ? &end_ : nullptr;
    decode.timeline = first ? timeline_for(i, decode.steps) : nullptr;
    row.decode = simulate(decode, settings);
    if (decode.end != nullptr) {
      end_.model = load.shape.name;
      end_.router_hash = load.trace.header.model_hash;
    }
    if (prefills.empty()) rows_.push_back(row);
    for (Prefill& prefill : prefills) {
      row.prefill_tokens = prefill.n_tokens;
      prefill.input.contents = contents_of(settings);
      row.prefill = simulate(prefill.input, settings);
      row.clairvoyant_prefill_tps = prefill.bounds.clairvoyant;
      row.bound_prefill_tps = prefill.bounds.strict;
      rows_.push_back(row);
    }
  }
}

std::vector<Sweep::Prefill> Sweep::list_prefills(const Workload& load,
                                                 const SimInput& input) const {
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
    prefill.input.hot = learning_rows(prefill.input.steps);
    prefill.bounds = bounds(prefill.input);
  }
  return prefills;
}

Sweep::Bounds Sweep::bounds(SimInput input) const {
  if (options_.no_bounds) return {};
  input.timeline = nullptr;
  input.end = nullptr;
  const double clairvoyant =
      simulate(input, load_scheduling_policy("clairvoyant")).tokens_per_second();
  input.contents = Contents::kEverything;
  SchedulingSettings ours = load_scheduling_policy(std::string(kDefaultPolicy));
  ours.prefetcher = "none";
  return {clairvoyant, simulate(input, ours).tokens_per_second()};
}

}  // namespace tandem
