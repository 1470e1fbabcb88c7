#include "runtime/cli/sampling_options.h"

#include <random>

namespace tandem {

void SamplingOptions::add_to(CLI::App* app) {
  app->add_option("-s,--seed", seed_, "seed of the draw (-1: a random one)")
      ->check(CLI::Range(int64_t{-1}, int64_t{0xffffffff}));
  app->add_option("--temp", values_.temperature, "temperature (0: the most likely token)")
      ->check(CLI::Range(0.0F, 1e6F))
      ->capture_default_str();
  app->add_option("--top-k", values_.top_k, "draw from the k most likely tokens (0: all)")
      ->capture_default_str();
  app->add_option("--top-p", values_.top_p, "draw from the likeliest tokens that make up p (1: off)")
      ->check(CLI::Range(0.0F, 1.0F))
      ->capture_default_str();
  app->add_option("--min-p", values_.min_p, "least probability, as a share of the best (0: off)")
      ->check(CLI::Range(0.0F, 1.0F))
      ->capture_default_str();
  app->add_option("--repeat-penalty", values_.repeat_penalty, "penalty of repeated tokens (1: off)")
      ->check(CLI::Range(1e-3F, 1e3F))
      ->capture_default_str();
  app->add_option("--repeat-last-n", values_.repeat_last_n,
                  "tokens that the penalty looks back (0: off, -1: the context)")
      ->check(CLI::Range(-1, 1 << 20))
      ->capture_default_str();
}

SamplingSettings SamplingOptions::settings() const {
  SamplingSettings settings = values_;
  settings.seed = seed_ >= 0 ? static_cast<uint32_t>(seed_) : std::random_device{}();
  return settings;
}

}  // namespace tandem
