// What a generation did, for people and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/generate.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/settings.h"
#include "runtime/model/available_memory.h"

namespace tandem {

// Lives as long as what it refers to.
struct RunReport {
  const Engine& engine;
  const GenerationResult& result;
  const MachineProfile& machine;
  const SamplingSettings& sampling;
  std::vector<EffectiveSetting> settings;
  double load_seconds = 0;  // from opening the file to weights that can be used
  ProcessMemory loaded;     // when weights could be used
  ProcessMemory ended;
};

// Several lines for stderr: settings requested and effective, speeds, cache, experts, link.
std::string summary_text(const RunReport& report);
// The keys of `run --json`, without "text".
nlohmann::ordered_json summary_json(const RunReport& report);

// One line a setting, with the reason where it is not what was requested.
std::string settings_text(std::span<const EffectiveSetting> settings);
nlohmann::ordered_json settings_json(std::span<const EffectiveSetting> settings);

// Compact for indent -1. Bytes that are no UTF-8 become U+FFFD; control characters are escaped.
std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

}  // namespace tandem
