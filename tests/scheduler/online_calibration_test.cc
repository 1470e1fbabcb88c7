#include "scheduler/online_calibration.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "scheduler/first_contents.h"
#include "scheduler/sim_executor.h"
#include "scheduler/simulator.h"
#include "scheduler/step.h"
#include "scheduler/synthetic_trace.h"
#include "tests/scheduler/scheduler_testing.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {
namespace {

constexpr int64_t kBytes = 4'000'000;

ModelShape shape() {
  ModelShape shape;
  shape.name = "small";
  shape.n_layers = 6;
  shape.n_experts = 16;
  shape.top_k = 4;
  shape.expert_bytes.assign(6, kBytes);
  shape.expert_params = 7'000'000;
  shape.split_pieces = 4;
  shape.attention = {8'000'000, 8'000'000};
  return shape;
}

Trace trace() {
  SyntheticTraceSettings settings;
  settings.n_layers = 6;
  settings.n_experts = 16;
  settings.top_k = 4;
  settings.n_sequences = 6;
  settings.n_prompt = 64;
  settings.n_decode = 30;
  settings.seed = 5;
  return make_synthetic_trace(settings);
}

// One token of an expert is read for 100 us on the CPU and computed for 47.
MachineProfile machine() {
  MachineProfile machine = round_machine();
  machine.cpu.gflops = 300;
  machine.layer_overhead_us = 50;
  return machine;
}

// Decoding and prompts on the true machine, planned with another profile. Returns the costs of an
// expert as they are believed at the end.
LayerCosts believed_after(const MachineProfile& believed, int64_t capacity_bytes) {
  const Trace routes = trace();
  const ModelShape model = shape();
  const MachineProfile truth = machine();
  const std::vector<ExpertCost> experts = expert_costs(model);
  SimExecutor exec(routes, model, truth, {true, 0.85, 0.04, 1}, 64);
  ExpertCache cache({6, 16, 4, model.expert_bytes, capacity_bytes},
                    make_eviction_policy("lru", {6, 16, nullptr, {}}));
  fill_first(&cache);
  Planner planner(CostModel(believed), experts,
                  {place_exact, true, true, true, {AdmissionRule::kAlways}, true});
  ImpactPrefetcher prefetcher(CostModel(believed), experts, cache, nullptr, {});
  LayerPlan plan;
  for (const SimStep& step : decode_steps(routes)) {
    run_step({step.rows, step.first_pos, 1}, exec, planner, cache, prefetcher, plan);
  }
  return corrected(CostModel(believed).layer(experts.front()), plan.factors);
}

void check_close(const LayerCosts& learnt, const LayerCosts& truth, double within) {
  const auto close = [&](const char* name, double a, double b) {
    INFO(name << " " << a << ", in truth " << b);
    CHECK(std::abs(a / b - 1) <= within);
  };
  close("cpu_read", learnt.cpu_read, truth.cpu_read);
  close("cpu_read_shared", learnt.cpu_read_shared, truth.cpu_read_shared);
  close("cpu_token", learnt.cpu_token, truth.cpu_token);
  close("gpu_read", learnt.gpu_read, truth.gpu_read);
  close("gpu_token", learnt.gpu_token, truth.gpu_token);
  close("copy", learnt.copy, truth.copy);
}

struct Simulated {
  Trace routes = trace();
  ModelShape model = shape();
  MachineProfile truth = machine();
  SimInput input;
  SchedulingSettings settings;

  Simulated() {
    input.trace = &routes;
    input.shape = &model;
    input.machine = &truth;
    input.steps = decode_steps(routes);
    input.capacity_bytes = 24 * kBytes;
    input.lookahead = {true, 0.85, 0.04, 1};
  }
  SimResult run(bool calibrate) {
    settings.calibrate = calibrate;
    return simulate(input, settings);
  }
};

// A layer of four experts with a token each. The first `gpu` of them are resident and run there.
LayerPlan plan_of(int32_t gpu, const LayerCosts& cost) {
  LayerPlan plan;
  plan.pieces = 4;
  plan.use.layer = LayerId{0};
  for (int32_t e = 0; e < 4; ++e) {
    const int32_t pieces = e < gpu ? 4 : 0;
    plan.experts.push_back({ExpertId{e}, e, 1, SlotId{e < gpu ? e : -1}, pieces, 0, pieces});
  }
  if (gpu > 0) plan.end.gpu = cost.gpu_launch + gpu * cost.gpu(1);
  if (gpu < 4) plan.end.cpu = cost.cpu_first + (4 - gpu) * cost.cpu(1);
  return plan;
}

}  // namespace

TEST_CASE("with a right profile calibration changes nothing, to the last bit") {
  Simulated s;
  for (const int32_t prompt : {0, 128}) {
    s.input.steps = prompt > 0 ? prefill_steps(s.routes, prompt) : decode_steps(s.routes);
    const SimResult without = s.run(false);
    const SimResult with = s.run(true);
    CHECK(with.totals.seconds == without.totals.seconds);
    CHECK(with.totals.bytes_demand == without.totals.bytes_demand);
    CHECK(with.totals.bytes_prefetched == without.totals.bytes_prefetched);
    CHECK(with.cache.hits == without.cache.hits);
    CHECK(with.transfers.started == without.transfers.started);
  }
}

TEST_CASE("each cost of the layer is learnt, whichever term of the profile is wrong") {
  struct Term {
    const char* name;
    std::function<double&(MachineProfile&)> of;
  };
  const std::vector<Term> terms = {
      {"cpu.read_gbps", [](MachineProfile& m) -> double& { return m.cpu.read_gbps; }},
      {"cpu.gflops", [](MachineProfile& m) -> double& { return m.cpu.gflops; }},
      {"gpu.read_gbps", [](MachineProfile& m) -> double& { return m.gpu.read_gbps; }},
      {"gpu.gflops", [](MachineProfile& m) -> double& { return m.gpu.gflops; }},
      {"link.h2d_gbps", [](MachineProfile& m) -> double& { return m.link.h2d_gbps; }},
      {"dram_gbps", [](MachineProfile& m) -> double& { return m.dram_gbps; }},
  };
  const LayerCosts truth = CostModel(machine()).layer(expert_costs(shape()).front());
  for (const Term& term : terms) {
    for (const double factor : {0.7, 1.3}) {
      MachineProfile believed = machine();
      term.of(believed) *= factor;
      INFO(term.name << " x " << factor);
      check_close(believed_after(believed, 24 * kBytes), truth, 0.04);
    }
  }
}

TEST_CASE("the link overrated and the CPU underrated by much are both learnt") {
  MachineProfile believed = machine();
  believed.link.h2d_gbps *= 2;
  believed.cpu.read_gbps /= 2;
  believed.cpu.gflops /= 2;
  const LayerCosts truth = CostModel(machine()).layer(expert_costs(shape()).front());
  check_close(believed_after(believed, 24 * kBytes), truth, 0.04);
}

TEST_CASE("what a wrong profile loses is won back") {
  Simulated s;
  const double right = s.run(false).tokens_per_second();
  MachineProfile believed = machine();
  believed.link.h2d_gbps *= 1.3;
  believed.cpu.read_gbps *= 0.7;
  believed.cpu.gflops *= 0.7;
  s.input.believed = &believed;
  const double wrong = s.run(false).tokens_per_second();
  const double learnt = s.run(true).tokens_per_second();
  REQUIRE(wrong < 0.99 * right);
  CHECK(right - learnt <= 0.5 * (right - wrong));
}

TEST_CASE("a resource that did nothing keeps its costs") {
  const CostModel model(machine());
  const LayerCosts believed = model.layer(expert_costs(shape()).front());
  OnlineCalibration calibration(model);
  for (int i = 0; i < 20; ++i) {
    const LayerCosts cost = corrected(believed, calibration.factors());
    LayerPlan plan = plan_of(4, cost);
    Clocks end;
    end.gpu = 2 * (believed.gpu_launch + 4 * believed.gpu(1));
    calibration.learn(cost, plan, end);
    calibration.learn_copies(0, 0);
  }
  const CostFactors& factors = calibration.factors();
  CHECK(factors.gpu_read > 1.5);
  CHECK(factors.gpu_token == Approx(1).margin(0.001));  // it takes a seventh of reading
  CHECK(factors.cpu_read == 1);
  CHECK(factors.cpu_read_shared == 1);
  CHECK(factors.cpu_token == 1);
  CHECK(factors.cpu_first == 1);
  CHECK(factors.copy == 1);
  CHECK(factors.copy_shared == 1);
  CHECK(factors.copy_latency == 1);
}

TEST_CASE("one layer that took twenty times as long moves nothing by more than a few percent") {
  const CostModel model(machine());
  const LayerCosts believed = model.layer(expert_costs(shape()).front());
  OnlineCalibration calibration(model);
  const auto layer = [&](double times) {
    const LayerCosts cost = corrected(believed, calibration.factors());
    const LayerPlan plan = plan_of(0, cost);
    Clocks end;
    end.cpu = times * (believed.cpu_first + 4 * believed.cpu(1));
    calibration.learn(cost, plan, end);
  };
  // The clock is a tenth off to either side.
  for (int i = 0; i < 200; ++i) layer(i % 2 == 0 ? 1.1 : 0.9);
  const double before = calibration.factors().cpu_read;
  CHECK(before == Approx(1).margin(0.05));
  layer(20);
  CHECK(calibration.factors().cpu_read == Approx(before).margin(0.05));
}

TEST_CASE("copies beside a busy CPU and alone are told apart") {
  const CostModel model(machine());
  OnlineCalibration calibration(model);
  const LayerCosts cost = model.layer(expert_costs(shape()).front());
  // The link is idle when the layer has been enqueued. 4 MB are believed to take 200 us, and 400
  // while the CPU reads; in truth 250 and 750.
  for (int i = 0; i < 50; ++i) {
    Clocks end;
    end.cpu = i % 2 == 0 ? 5000 : 0;
    calibration.learn(cost, LayerPlan{}, end);
    calibration.learn_copies(kBytes, i % 2 == 0 ? 750 : 250);
  }
  CHECK(calibration.factors().copy == Approx(1.25).epsilon(0.02));
  CHECK(calibration.factors().copy_shared == Approx(750.0 / 400).epsilon(0.02));
  CHECK(calibration.factors().copy_latency == 1);
}

TEST_CASE("the first error is taken over as far as a profile is less sure than a clock") {
  // A profile's standard deviation is 0.3, a time's 0.1: 0.09 / (0.09 + 0.01) of an error of 0.2.
  FactorFilter<1> filter({0.3});
  filter.learn({100}, 100, 120);
  CHECK(filter.factors()[0] == Approx(1.18));
}

TEST_CASE("no factor leaves its bounds, and what is expected to take no time teaches nothing") {
  FactorFilter<2> filter({0.3, 0.3});
  filter.learn({0, 0}, 0, 50);
  CHECK(filter.factors() == FactorFilter<2>::Terms{1, 1});
  for (int i = 0; i < 1000; ++i) filter.learn({50 * filter.factors()[0], 50}, 100, 1e9);
  CHECK(filter.factors()[0] <= 20);
  for (int i = 0; i < 10000; ++i) filter.learn({50 * filter.factors()[0], 50}, 100, 0);
  CHECK(filter.factors()[0] >= 0.05);
}

TEST_CASE("learning allocates nothing") {
  const CostModel model(machine());
  const LayerCosts cost = model.layer(expert_costs(shape()).front());
  OnlineCalibration calibration(model);
  const LayerPlan plan = plan_of(2, cost);
  const int64_t before = allocation_count;
  calibration.learn(cost, plan, {700, 90, 0});
  calibration.learn_copies(kBytes, 300);
  const int64_t after = allocation_count;
  CHECK(after == before);
  CHECK(calibration.factors().cpu_read != 1);
}

}  // namespace tandem::test
