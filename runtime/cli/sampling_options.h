// The sampling flags of run and chat, with llama.cpp's names and defaults.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "runtime/engine/sampler.h"

namespace tandem {

class SamplingOptions {
 public:
  void add_to(CLI::App* app);
  // A seed of -1 becomes a random one here.
  SamplingSettings settings() const;

 private:
  SamplingSettings values_;
  int64_t seed_ = -1;
};

}  // namespace tandem
