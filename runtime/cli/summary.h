// What a generation did, for people and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/engine/engine.h"
#include "runtime/engine/generate.h"

namespace tandem {

// Several lines for stderr: settings requested and effective, speeds, cache, experts, link.
std::string summary_text(const Engine& engine, const GenerationResult& result,
                         const MachineProfile& machine, uint32_t seed);

// The keys of `run --json`, without "text".
nlohmann::ordered_json summary_json(const Engine& engine, const GenerationResult& result,
                                    const MachineProfile& machine, uint32_t seed);

// "1.23 GiB"
std::string bytes_text(int64_t bytes);

}  // namespace tandem
