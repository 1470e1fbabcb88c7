// What `tandem refactor` was asked, did and found, for people and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/refactor/masks.h"
#include "runtime/refactor/passes.h"
#include "runtime/refactor/router_training.h"

namespace tandem {

// Of a run so far: what it has not come to is empty.
struct RefactorReport {
  std::string model;  // its name and shape, for people
  int64_t dense_bytes = 0;
  std::vector<DomainText> domains;
  int64_t window = 0;
  int threads = 0;
  int64_t memory_bytes = 0;  // beside the model's file, at most
  double keep = 0;
  ExpertMasks masks;
  RouterTrainingSettings training;
  RouterTrainingResult router;
  std::string out;
  int64_t out_bytes = 0;
  std::string side_car;
  int64_t side_car_bytes = 0;
  std::vector<DomainPerplexity> perplexities;
};

// Lines for stderr, before and after the work.
std::string refactor_begin_text(const RefactorReport& report);
std::string refactor_end_text(const RefactorReport& report);
nlohmann::ordered_json refactor_json(const RefactorReport& report);

}  // namespace tandem
