#include "tests/engine/engine_testing.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>

#include "runtime/device/sim_device.h"
#include "runtime/error.h"

namespace tandem::test {

nlohmann::json read_json(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path);
  return nlohmann::json::parse(in);
}

double relative_error(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    // A NaN on either side must not pass.
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

MachineProfile test_machine() {
  MachineProfile machine;
  machine.name = "test";
  machine.cpu = {40, 400, 5};
  machine.gpu = {int64_t{1} << 30, 300, 20000, 4};
  machine.link = {25, 25, 8};
  machine.dram_gbps = 45;
  return machine;
}

EngineSettings sim_settings(int32_t slots) {
  EngineSettings settings;
  settings.device = DeviceKind::kSim;
  settings.sim.check_hazards = true;
  settings.expert_slots = slots;
  settings.n_threads = 2;
  return settings;
}

EngineSettings cuda_settings(int32_t slots) {
  EngineSettings settings = sim_settings(slots);
  settings.device = DeviceKind::kSimCuda;
  return settings;
}

EngineSettings cpu_settings() {
  EngineSettings settings;
  settings.device = DeviceKind::kCpu;
  settings.n_threads = 2;
  return settings;
}

std::vector<float> all_logits(const Model& model, EngineSettings settings,
                              std::span<const int32_t> tokens) {
  settings.max_logits = settings.n_batch;
  Engine engine(model, test_machine(), settings);
  std::vector<float> logits;
  const auto batch = static_cast<size_t>(engine.n_batch());
  for (size_t at = 0; at < tokens.size(); at += batch) {
    const size_t n = std::min(batch, tokens.size() - at);
    const auto rows = engine.eval(tokens.subspan(at, n), static_cast<int64_t>(n));
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  return logits;
}

RunOutcome run_outcome(const Model& model, const EngineSettings& settings,
                       std::span<const int32_t> prompt, int n) {
  RunOutcome outcome;
  try {
    Engine engine(model, test_machine(), settings);
    outcome.tokens = greedy(engine, prompt, n);
    outcome.calls = dynamic_cast<const SimDevice&>(engine.device()).calls();
  } catch (const DeviceError& error) {
    outcome.error = error.what();
  } catch (const MemoryError& error) {
    outcome.error = error.what();
  }
  return outcome;
}

std::vector<int32_t> greedy(Engine& engine, std::span<const int32_t> prompt, int n) {
  std::vector<int32_t> tokens;
  std::span<const float> logits = engine.eval(prompt);
  while (static_cast<int>(tokens.size()) < n) {
    const auto best = std::max_element(logits.begin(), logits.end());
    tokens.push_back(static_cast<int32_t>(best - logits.begin()));
    logits = engine.eval({&tokens.back(), 1});
  }
  return tokens;
}

}  // namespace tandem::test
