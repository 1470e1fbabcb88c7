// What planning itself costs: host time measured on one core of this machine, not modelled.
#include <fmt/format.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/scheduling/studies.h"
#include "runtime/config/model_shape.h"
#include "runtime/config/scheduling_policy.h"
#include "scheduler/impact_prefetcher.h"
#include "scheduler/planner.h"
#include "scheduler/sim_executor.h"
#include "scheduler/step.h"
#include "tests/support/counted_new.h"

namespace tandem::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 7;
constexpr double kShare = 0.25;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// The core that the program happens to run on; false where that cannot be had.
bool pin_to_one_core() {
#ifdef __linux__
  const int core = sched_getcpu();
  if (core < 0) return false;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
#else
  return false;
#endif
}

double at_share(std::vector<double> sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1))];
}

// Samples of each repeat: median and 99th percentile, and their range over the repeats.
class Report {
 public:
  Report(std::string what, double asked) : what_(std::move(what)), asked_(asked) {}

  void add(const std::vector<double>& samples, int64_t allocations) {
    medians_.push_back(at_share(samples, 0.5));
    tails_.push_back(at_share(samples, 0.99));
    n_ += samples.size();
    allocations_ += allocations;
  }
  void print(std::FILE* csv) const {
    fmt::print("| {} | {} | {} | {} | {} | {} |\n", what_, range(medians_), range(tails_),
               asked_ > 0 ? fmt::format("{:g}", asked_) : "", n_, allocations_);
    if (csv == nullptr) return;
    for (size_t i = 0; i < medians_.size(); ++i) {
      fmt::print(csv, "\"{}\",{},{:.4f},{:.4f}\n", what_, i, medians_[i], tails_[i]);
    }
  }

 private:
  static std::string range(const std::vector<double>& values) {
    return fmt::format("{:.2f} ({:.2f}-{:.2f})", at_share(values, 0.5), at_share(values, 0),
                       at_share(values, 1));
  }

  std::string what_;
  double asked_;  // at most, microseconds; 0: nothing is asked
  std::vector<double> medians_;
  std::vector<double> tails_;
  size_t n_ = 0;
  int64_t allocations_ = 0;
};

// Layers at random: a quarter of the experts is resident, of which one in eight is on its way, some
// of them with a part of their pieces.
class RandomLayers {
 public:
  RandomLayers(const std::string& model, const MachineProfile& machine, const std::string& policy,
               int32_t n_active, int32_t n_tokens)
      : shape_(load_model_shape(model)),
        settings_(load_scheduling_policy(policy)),
        cache_({shape_.n_layers, shape_.n_experts, shape_.split_pieces, shape_.expert_bytes,
                static_cast<int64_t>(kShare * static_cast<double>(all_expert_bytes(shape_))),
                PoolShape::kPerLayer},
               make_eviction_policy("lru", {shape_.n_layers, shape_.n_experts})),
        planner_(CostModel(machine), expert_costs(shape_),
                 {placement_rule(settings_.planner), true, settings_.may_split, true,
                  settings_.admission}) {
    std::mt19937 random(12);
    for (int32_t l = 0; l < shape_.n_layers; ++l) fill(LayerId{l}, &random);
    for (int i = 0; i < 500; ++i) add(LayerId{i % shape_.n_layers}, n_active, n_tokens, &random);
  }

  std::vector<double> measure() {
    std::vector<double> us;
    us.reserve(layers_.size());
    for (const Layer& layer : layers_) {
      const Clock::time_point start = Clock::now();
      planner_.plan(layer.routing, cache_, {0, layer.gpu, layer.link}, &plan_);
      us.push_back(us_since(start));
    }
    return us;
  }

 private:
  struct Layer {
    RoutingDecision routing;
    double gpu = 0;   // until when it computes the shared expert
    double link = 0;  // until when it copies what is on its way
  };

  void fill(LayerId layer, std::mt19937* random) {
    std::vector<int32_t> experts(static_cast<size_t>(shape_.n_experts));
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), *random);
    for (const int32_t e : experts) {
      const ExpertCache::Offer offer = cache_.offer(layer);
      if (!offer.free) return;
      cache_.insert({layer, ExpertId{e}}, offer.slot);
      const bool on_its_way = (*random)() % 8 == 0;
      const auto pieces = static_cast<uint32_t>(shape_.split_pieces);
      const auto there = static_cast<int32_t>(1 + (*random)() % pieces);
      cache_.set_pieces(offer.slot, on_its_way ? there : shape_.split_pieces,
                        on_its_way ? 40.0 + static_cast<double>((*random)() % 60) : 0);
    }
  }

  void add(LayerId layer, int32_t n_active, int32_t n_tokens, std::mt19937* random) {
    std::vector<int32_t> experts(static_cast<size_t>(shape_.n_experts));
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), *random);
    std::sort(experts.begin(), experts.begin() + n_active);
    std::vector<ExpertLoad>& loads =
        *loads_.emplace_back(std::make_unique<std::vector<ExpertLoad>>());
    for (int32_t i = 0; i < n_active; ++i) {
      const double heavy = std::exponential_distribution<>(1)(*random);
      const double mean = static_cast<double>(n_tokens) * shape_.top_k / n_active;
      const int32_t count = n_tokens == 1 ? 1 : 1 + static_cast<int32_t>(heavy * mean);
      loads.push_back({ExpertId{experts[static_cast<size_t>(i)]}, 0, count});
    }
    Layer one;
    one.routing.layer = layer;
    one.routing.n_tokens = n_tokens;
    one.routing.top_k = shape_.top_k;
    one.routing.loads = loads;
    one.gpu = static_cast<double>((*random)() % 30);
    one.link = 100;
    layers_.push_back(one);
  }

  ModelShape shape_;
  SchedulingSettings settings_;
  ExpertCache cache_;
  Planner planner_;
  LayerPlan plan_;
  std::vector<std::unique_ptr<std::vector<ExpertLoad>>> loads_;
  std::vector<Layer> layers_;
};

// The simulated executor, its own time taken out of the measurement.
class Stopwatch final : public Executor {
 public:
  explicit Stopwatch(SimExecutor* exec) : exec_(*exec) {}
  int32_t n_layers() const override { return exec_.n_layers(); }
  Clocks clocks() const override { return exec_.clocks(); }
  void begin_step(const Batch& batch) override {
    timed([&] { exec_.begin_step(batch); });
  }
  const RoutingDecision& route(LayerId layer) override {
    const RoutingDecision* routing = nullptr;
    timed([&] { routing = &exec_.route(layer); });
    return *routing;
  }
  void run(const LayerPlan& plan) override {
    timed([&] { exec_.run(plan); });
  }
  void prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) override {
    timed([&] { exec_.prefetch(slices, landed); });
  }
  std::span<const float> end_step() override {
    timed([&] { exec_.end_step(); });
    return {};
  }
  double take_us() { return std::exchange(us_, 0); }

 private:
  template <typename Call>
  void timed(Call call) {
    const Clock::time_point start = Clock::now();
    call();
    us_ += us_since(start);
  }
  SimExecutor& exec_;
  double us_ = 0;
};

Workload qwen3(int32_t tokens) {
  GridOptions grid;
  grid.prompt = 0;
  grid.decode = tokens;
  grid.sequences = 1;
  return make_synthetic("qwen3-30b-a3b",
                        "synthetic:skew=0.44,topic=0.3,reuse=0.1,memory=0.9,ahead=3", 7, grid);
}

void measure_tokens(const StudyOptions& options, const MachineProfile& machine) {
  const Workload load = qwen3(600);
  const ModelShape& shape = load.shape;
  const SchedulingSettings settings = load_scheduling_policy(options.ours);
  Report whole("a token of Qwen3-30B-A3B: plan, cache, prefetch", 500);
  Report simulated("the same with the simulated executor", 0);
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const CostModel model(machine);
    const std::vector<ExpertCost> experts = expert_costs(shape);
    ExpertCache cache({shape.n_layers, shape.n_experts, shape.split_pieces, shape.expert_bytes,
                       static_cast<int64_t>(kShare * static_cast<double>(all_expert_bytes(shape))),
                       settings.pool},
                      find_eviction_policy(settings.policy)
                          ->make({shape.n_layers, shape.n_experts}, settings.policy_values));
    Planner planner(model, experts,
                    {placement_rule(settings.planner), true, settings.may_split, true,
                     settings.admission, settings.calibrate});
    ImpactPrefetcher prefetcher(model, experts, cache,
                                make_predictor(settings.predictor, {shape.n_layers, shape.n_experts,
                                                                    settings.prefetch.ahead}),
                                settings.prefetch);
    SimExecutor exec(load.trace, shape, machine, {}, 1);
    Stopwatch watch(&exec);
    LayerPlan plan;
    std::vector<double> thinking;
    std::vector<double> all;
    thinking.reserve(600);
    all.reserve(600);
    int64_t before = 0;
    for (int32_t t = 0; t < 600; ++t) {
      if (t == 100) before = test::allocation_count;
      const Clock::time_point start = Clock::now();
      run_step({{&t, 1}, t, 1}, watch, planner, cache, prefetcher, plan);
      const double us = us_since(start);
      const double executor = watch.take_us();
      if (t < 100) continue;
      thinking.push_back(us - executor);
      all.push_back(us);
    }
    const int64_t allocations = test::allocation_count - before;
    whole.add(thinking, allocations);
    simulated.add(all, allocations);
  }
  whole.print(options.csv);
  simulated.print(options.csv);
}

// Each layer is planned ten times and counts with the shortest, so that what the operating system
// does in between stays out of the 99th percentile.
void measure_layers(const StudyOptions& options, Report report, RandomLayers* layers) {
  layers->measure();  // vectors grow
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::vector<double> least = layers->measure();
    int64_t allocations = 0;
    for (int i = 1; i < 10; ++i) {
      const int64_t before = test::allocation_count;
      const std::vector<double> us = layers->measure();
      allocations += test::allocation_count - before - 1;  // the samples' own
      for (size_t n = 0; n < us.size(); ++n) least[n] = std::min(least[n], us[n]);
    }
    report.add(least, allocations);
  }
  report.print(options.csv);
}

void measure_simulation(const StudyOptions& options, const MachineProfile& machine) {
  constexpr int64_t kVisits = 1'000'000;
  const Workload load = qwen3(2048);
  SimInput input = make_input(options.grid, load, machine, kShare);
  input.lookahead = {};
  const int64_t n_tokens = kVisits / load.shape.n_layers + 1;
  for (int64_t t = 0; t < n_tokens; ++t) {
    input.steps.push_back({{static_cast<int32_t>(t % load.trace.n_tokens())}, t % 2048, true});
  }
  const SchedulingSettings settings = load_scheduling_policy(options.ours);
  const Clock::time_point start = Clock::now();
  const std::clock_t cpu_start = std::clock();
  const SimResult result = simulate(input, settings);
  const double cpu = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  const double seconds = us_since(start) * 1e-6;
  const double million = 1e6 / static_cast<double>(n_tokens);
  fmt::print(
      "\n{} layer visits ({} tokens of Qwen3-30B-A3B) simulated in {:.1f} s, {:.1f} s of CPU "
      "time; a million tokens would take {:.0f} s, {:.0f} s. Hits {:.1f} %.\n",
      n_tokens * load.shape.n_layers, n_tokens, seconds, cpu, seconds * million, cpu * million,
      100 * result.hit_rate());
}

}  // namespace

void thinking_study(const StudyOptions& options) {
  const MachineProfile machine = load_machines(options.grid).front();
  fmt::print("Host time, microseconds: median of {} repeats (smallest-largest). {}\n\n", kRepeats,
             pin_to_one_core() ? "One core." : "Not pinned to a core.");
  fmt::print("| what | median | 99th percentile | asked | samples | allocations |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  if (options.csv != nullptr) fmt::print(options.csv, "what,repeat,median_us,p99_us\n");
  RandomLayers decode("deepseek-v3", machine, options.ours, 8, 1);
  measure_layers(options, {"plan a decode layer, 8 of 256", 3}, &decode);
  RandomLayers prefill("qwen3-30b-a3b", machine, options.ours, 128, 512);
  measure_layers(options, {"plan a prefill layer, 128 active", 40}, &prefill);
  measure_tokens(options, machine);
  measure_simulation(options, machine);
}

}  // namespace tandem::bench
