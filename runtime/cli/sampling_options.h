// The sampling flags of run, chat, trace and pregate collect, with llama.cpp's names and defaults.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/engine/sampler.h"

namespace tandem {

class SamplingOptions {
 public:
  SamplingOptions() = default;
  // Other defaults than llama.cpp's.
  explicit SamplingOptions(float temperature, int64_t seed = -1) : seed_(seed) {
    values_.temperature = temperature;
  }
  void add_to(CLI::App* app);
  // A seed of -1 becomes a random one here.
  SamplingSettings settings() const;

 private:
  SamplingSettings values_;
  int64_t seed_ = -1;
};

// One line: "temp 0.8, top-k 40, …".
std::string sampling_text(const SamplingSettings& settings);
nlohmann::ordered_json sampling_json(const SamplingSettings& settings);

}  // namespace tandem
