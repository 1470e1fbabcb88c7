#include "runtime/cli/sampling_options.h"

#include <fmt/format.h>

#include <limits>
#include <random>

#include "runtime/cli/option_checks.h"

namespace tandem {
namespace {

// 0.8F as 0.8, not as 0.800000011920929.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

}  // namespace

void SamplingOptions::add_to(CLI::App* app) {
  app->add_option("-s,--seed", seed_, "seed of the draw; -1: a random one")
      ->type_name("N")
      ->check(whole_number(-1, 0xffffffff))
      ->capture_default_str();
  app->add_option("--temp", values_.temperature, "temperature; 0: the most likely token")
      ->type_name("T")
      ->check(number(0, 1e6))
      ->capture_default_str();
  app->add_option("--top-k", values_.top_k, "draw from the k most likely tokens; 0: all")
      ->type_name("N")
      ->check(whole_number(-1, std::numeric_limits<int32_t>::max()))
      ->capture_default_str();
  app->add_option("--top-p", values_.top_p, "draw from the likeliest that make up p; 1: off")
      ->type_name("P")
      ->check(number(0, 1))
      ->capture_default_str();
  app->add_option("--min-p", values_.min_p, "least probability, as a share of the best; 0: off")
      ->type_name("P")
      ->check(number(0, 1))
      ->capture_default_str();
  app->add_option("--repeat-penalty", values_.repeat_penalty, "penalty of repeats; 1: off")
      ->type_name("X")
      ->check(number(1e-3, 1e3))
      ->capture_default_str();
  app->add_option("--repeat-last-n", values_.repeat_last_n,
                  "tokens the penalty looks back; 0: off, -1: the context")
      ->type_name("N")
      ->check(whole_number(-1, 1 << 20))
      ->capture_default_str();
}

SamplingSettings SamplingOptions::settings() const {
  SamplingSettings settings = values_;
  settings.seed = seed_ >= 0 ? static_cast<uint32_t>(seed_) : std::random_device{}();
  return settings;
}

std::string sampling_text(const SamplingSettings& s) {
  if (s.temperature <= 0 && s.repeat_penalty == 1.0F) return "greedy (temp 0)";
  if (s.temperature <= 0) {
    return fmt::format("greedy (temp 0), repeat penalty {} over {}", s.repeat_penalty,
                       s.repeat_last_n);
  }
  return fmt::format("temp {}, top-k {}, top-p {}, min-p {}, repeat penalty {} over {}, seed {}",
                     s.temperature, s.top_k, s.top_p, s.min_p, s.repeat_penalty, s.repeat_last_n,
                     s.seed);
}

nlohmann::ordered_json sampling_json(const SamplingSettings& s) {
  return {{"temp", shortest(s.temperature)},
          {"top_k", s.top_k},
          {"top_p", shortest(s.top_p)},
          {"min_p", shortest(s.min_p)},
          {"repeat_penalty", shortest(s.repeat_penalty)},
          {"repeat_last_n", s.repeat_last_n}};
}

}  // namespace tandem
