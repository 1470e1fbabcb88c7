// A fitted lookahead in the engine: that it is computed right on every device, and that what it
// says never changes a result.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "kernels/quant.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/shape_choice.h"
#include "scheduler/impact_prefetcher.h"
#include "scheduler/make_scheduling.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/held_lookahead.h"
#include "tests/engine/random_pregate.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/file_error.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

constexpr size_t kBlock = 32;

std::vector<float> from_halves(const uint16_t* row, size_t d) {
  std::vector<float> values(d);
  std::transform(row, row + d, values.begin(), f16_to_f32);
  return values;
}

// Of an input as products with Q8_0 round it.
std::vector<float> as_rounded(const float* x, size_t d) {
  std::vector<float> values(x, x + d);
  for (size_t i = 0; i < d; i += kBlock) {
    float largest = 0;
    for (size_t j = i; j < i + kBlock; ++j) largest = std::max(largest, std::abs(x[j]));
    if (largest == 0) continue;
    for (size_t j = i; j < i + kBlock; ++j) {
      values[j] = std::nearbyint(x[j] * (127 / largest)) * (largest / 127);
    }
  }
  return values;
}

std::vector<double> guessed(const PregateLink& link, const std::vector<float>& x) {
  std::vector<double> logits;
  for (size_t e = 0; e < link.bias.size(); ++e) {
    const std::vector<float> row =
        as_held(from_halves(link.weight.data() + e * x.size(), x.size()));
    double sum = static_cast<double>(link.bias[e]);
    for (size_t i = 0; i < x.size(); ++i) {
      sum += static_cast<double>(row[i]) * static_cast<double>(x[i]);
    }
    logits.push_back(sum);
  }
  return logits;
}

// Holds what a layer says of the next ones against float64, with what its router saw.
struct Comparison {
  const Pregate& pregate;
  bool rounds;  // inputs
  int64_t compared = 0;

  void operator()(const RoutingDecision& routing, const RouterTap& tap) {
    const auto k = static_cast<size_t>(routing.top_k);
    const auto e = static_cast<size_t>(pregate.n_experts);
    const auto d = static_cast<size_t>(pregate.d_model);
    const auto n = static_cast<size_t>(routing.n_tokens);
    for (size_t ahead = 1; ahead <= static_cast<size_t>(routing.n_ahead); ++ahead) {
      const PregateLink* link = pregate.link(routing.layer.value, static_cast<int32_t>(ahead));
      for (size_t t = 0; t < n; ++t) {
        const ExpertId* ids = routing.predicted.data() + ((ahead - 1) * n + t) * k;
        const float* use = routing.predicted_use.data() + ((ahead - 1) * n + t) * e;
        if (link == nullptr) {
          CHECK_FALSE(ids[0].valid());
          CHECK(std::all_of(use, use + e, [](float p) { return p == 0; }));
          continue;
        }
        const float* x = tap.inputs + t * d;
        const std::vector<double> logits =
            guessed(*link, rounds ? as_rounded(x, d) : std::vector<float>(x, x + d));
        std::vector<size_t> order(e);
        std::iota(order.begin(), order.end(), size_t{0});
        std::sort(order.begin(), order.end(),
                  [&](size_t a, size_t b) { return logits[a] > logits[b]; });
        if (logits[order[k - 1]] - logits[order[k]] < 1e-3) continue;  // too near for f32
        ++compared;
        for (size_t r = 0; r < k; ++r) {
          const auto at = std::find_if(
              ids, ids + k, [&](ExpertId id) { return static_cast<size_t>(id.value) == order[r]; });
          CHECK(at != ids + k);
        }
        const double middle = (logits[order[k - 1]] + logits[order[k]]) / 2;
        for (size_t x = 0; x < e; ++x) {
          const double z = static_cast<double>(link->calib_scale) * (logits[x] - middle) +
                           static_cast<double>(link->calib_offset);
          const double p = z > -5.99 ? 1 / (1 + std::exp(-z)) : 0;
          CHECK(std::abs(static_cast<double>(use[x]) - p) < 3e-3);
        }
      }
    }
  }
};

std::unique_ptr<Device> device_of(SimKernels kernels) {
  SimSettings sim;
  sim.kernels = kernels;
  return StepHarness::make_device(3, sim);
}

}  // namespace

TEST_CASE("a fitted lookahead says on every device what float64 says") {
  const Unrounded unrounded;  // on the CPU; CUDA kernels always round
  for (const std::string& path : {kFamilies + "qwen3moe-f32.gguf", kDemoModel}) {
    const Model model = Model::load(GgufFile::open(path));
    const auto pregate = random_pregate(model, 4);
    for (const int device : {0, 1, 2}) {  // the CPU, a simulated GPU, one with CUDA kernels
      INFO(path << ", device " << device);
      StepHarness harness(model, device == 0 ? -1 : 3,
                          device == 0   ? StepHarness::make_device(-1, {})
                          : device == 1 ? device_of(SimKernels::kHost)
                                        : device_of(SimKernels::kEmulated),
                          64, {1, 4, pregate});
      Comparison compare{*pregate, device == 2};
      RoutingDecision last;
      harness.executor.set_routing_hook([&](const RoutingDecision& routing) { last = routing; });
      harness.executor.set_tap_hook([&](const RouterTap& tap) { compare(last, tap); });
      const std::vector<int32_t> tokens{1, 5, 9, 2, 3, 4, 6};
      NoPrefetcher nothing;
      run_step({std::span(tokens).first(6), 0, 1}, harness.executor, harness.planner, harness.cache,
               nothing, harness.plan);
      const int64_t of_many = compare.compared;
      CHECK(of_many > 0);
      run_step({std::span(tokens).last(1), 6, 1}, harness.executor, harness.planner, harness.cache,
               nothing, harness.plan);
      CHECK(compare.compared > of_many);
    }
  }
}

TEST_CASE("a fitted lookahead changes results by rounding at most, and no greedy token") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto wrong = random_pregate(model, 3);
  const std::vector<int32_t> prompt{1, 5, 9, 13, 17, 200, 300, 400, 17, 9, 5, 1};
  Engine cpu(model, test_machine(), cpu_settings());
  const std::vector<int32_t> reference = greedy(cpu, prompt, 24);
  const std::vector<float> expected = all_logits(model, cpu_settings(), prompt);
  for (const int32_t slots : {5, 40, 190}) {
    INFO("slots " << slots);
    EngineSettings settings = sim_settings(slots);
    settings.pregate = wrong;
    Engine engine(model, test_machine(), settings);
    CHECK(greedy(engine, prompt, 24) == reference);
    CHECK(engine.stats().prefetched.started > 0);
    CHECK(relative_error(all_logits(model, settings, prompt), expected) <= 1e-4);
  }
}

TEST_CASE("guesses in Q8_0 are multiplied where none of the model's own weights wants int8") {
  const Model model = Model::load(GgufFile::open(kFamilies + "llama-f16.gguf"));
  std::vector<int32_t> tokens(40);
  std::iota(tokens.begin(), tokens.end(), 3);
  EngineSettings settings = cuda_settings(3);
  settings.n_batch = 40;  // more rows than kernels pack themselves
  const std::vector<float> expected = all_logits(model, cpu_settings(), tokens);
  for (const auto& pregate : {std::shared_ptr<Pregate>{}, random_pregate(model, 3)}) {
    settings.pregate = pregate;
    CHECK(relative_error(all_logits(model, settings, tokens), expected) <= 2e-3);
  }
}

TEST_CASE("a fitted lookahead takes the place of reused gates, and the settings say so") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(20);
  settings.pregate = random_pregate(model, 2);
  settings.pregate_from.append("side.safetensors");
  const auto predictor = [&] {
    const Engine engine(model, test_machine(), settings);
    for (const EffectiveSetting& line : engine.effective()) {
      if (line.name == "predictor") return line;
    }
    return EffectiveSetting{};
  };
  const EffectiveSetting line = predictor();
  CHECK(line.requested == "gate-reuse");
  CHECK(line.effective == "pregate");
  CHECK_THAT(line.reason, contains("side.safetensors"));
  CHECK(predictor().reason == "side.safetensors; it reaches 2 layers, the policy 3");
  settings.scheduling.predictor = "hot-list";
  CHECK(predictor().effective == "hot-list");
  const auto not_used = [&] {
    const Engine engine(model, test_machine(), settings);
    for (const EffectiveSetting& found : engine.effective()) {
      if (found.name == "pregate") return found.requested + ": " + found.reason;
    }
    return std::string();
  };
  CHECK(not_used() ==
        "side.safetensors: it takes the place of gates that are reused, and none are");
  settings.device = DeviceKind::kCpu;
  CHECK(not_used() == "side.safetensors: there are no expert slots");
}

TEST_CASE("many tokens are guessed by CUDA kernels as by the CPU's") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto pregate = random_pregate(model, 3);
  std::vector<int32_t> tokens(40);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(31 * i + 7);
  const auto guesses = [&](SimKernels kernels) {
    StepHarness harness(model, 3, device_of(kernels), 64, {1, 3, pregate});
    std::vector<std::vector<int32_t>> all;  // of a layer, distance and token, sorted
    harness.executor.set_routing_hook([&](const RoutingDecision& routing) {
      const auto k = static_cast<size_t>(routing.top_k);
      for (size_t i = 0; i < routing.predicted.size(); i += k) {
        auto& ids = all.emplace_back();
        for (size_t r = 0; r < k; ++r) ids.push_back(routing.predicted[i + r].value);
        std::sort(ids.begin(), ids.end());
      }
    });
    NoPrefetcher nothing;
    run_step({tokens, 0, 1}, harness.executor, harness.planner, harness.cache, nothing,
             harness.plan);
    return all;
  };
  const auto cpu = guesses(SimKernels::kHost);
  const auto cuda = guesses(SimKernels::kEmulated);
  REQUIRE(cpu.size() == 6 * 3 * tokens.size());
  REQUIRE(cuda.size() == cpu.size());
  int64_t same = 0;
  for (size_t i = 0; i < cpu.size(); ++i) same += cpu[i] == cuda[i] ? 1 : 0;
  CHECK(same >= static_cast<int64_t>(cpu.size()) * 97 / 100);  // near ties may end otherwise
}

TEST_CASE("a fitted lookahead of other routers or of another shape is refused") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(20);
  settings.pregate_from.append("f");
  const auto refusal = [&](const std::shared_ptr<Pregate>& pregate) {
    settings.pregate = pregate;
    return error_of([&] { const Engine engine(model, test_machine(), settings); });
  };
  const auto other = random_pregate(model, 3);
  other->router_hash[0] = other->router_hash[0] == '0' ? '1' : '0';
  CHECK_THAT(refusal(other), contains("f: it is for another model: SHA-256 of the routers"));
  const auto narrow = random_pregate(model, 3);
  narrow->d_model = 128;
  CHECK_THAT(refusal(narrow), contains("width: expected 256, got 128"));
  settings.device = DeviceKind::kCpu;  // which guesses nothing
  CHECK_THAT(refusal(narrow), contains("width: expected 256, got 128"));
}

TEST_CASE("a plan counts a fitted lookahead among what the device holds") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const MachineProfile machine = test_machine();
  const auto used = [&](const std::shared_ptr<const Pregate>& pregate) {
    EngineSettings settings = sim_settings(20);
    settings.pregate = pregate;
    const Engine engine(model, machine, settings);
    std::vector<EffectiveSetting> lines;
    const OpenDevice empty = open_device(settings, machine);
    const EngineShape shape = choose_shape(model, machine, settings, *empty.device, &lines);
    const MemoryPlan plan = plan_memory(model, *empty.device, machine, shape, cache_wish(settings));
    CHECK(plan.device_bytes == engine.device().used_bytes());
    return plan.device_bytes;
  };
  const int64_t links = 4 + 3;  // two and three layers ahead
  CHECK(used(random_pregate(model, 3)) - used(random_pregate(model, 1)) >=
        links * 32 * (256 / 32 * 34 + 4));
  CHECK(used(nullptr) > 0);
}

}  // namespace tandem::test
