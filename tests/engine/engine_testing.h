// What the engine tests share: fixtures, machines, engines and comparisons.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/model/model.h"
#include "scheduler/machine_profile.h"

namespace tandem::test {

inline const std::string kDemoModel = TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf";
inline const std::string kFamilies = TANDEM_SOURCE_DIR "/tests/fixtures/families/";

nlohmann::json read_json(const std::string& path);

// max |a - b| / max |b|
double relative_error(std::span<const float> a, std::span<const float> b);

// Round numbers; which ones they are does not matter to results.
MachineProfile test_machine();

// A simulated GPU with room for everything and `slots` expert slots.
EngineSettings sim_settings(int32_t slots);
// One that emulates CUDA kernels.
EngineSettings cuda_settings(int32_t slots);
EngineSettings cpu_settings();

// Logits of every position of `tokens`, read in batches of the settings' size.
std::vector<float> all_logits(const Model& model, EngineSettings settings,
                              std::span<const int32_t> tokens);

// The n most likely tokens behind a prompt on a simulated GPU, or the message of the error of
// device or memory that ended it; and how many calls the device had.
struct RunOutcome {
  std::vector<int32_t> tokens{};
  std::string error{};
  uint64_t calls = 0;
};
RunOutcome run_outcome(const Model& model, const EngineSettings& settings,
                       std::span<const int32_t> prompt, int n);

// The n most likely tokens that follow, one by one.
std::vector<int32_t> greedy(Engine& engine, std::span<const int32_t> prompt, int n);

}  // namespace tandem::test
