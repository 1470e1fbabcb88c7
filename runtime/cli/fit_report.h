// What tandem pregate fit says of a fit.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/pregate/fit.h"

namespace tandem {

struct FitReport {
  const FitResult& result;
  const std::string& file;
  int64_t file_bytes = 0;
  int threads = 0;
  int64_t thread_bytes = 0;  // of each thread, at most
  int32_t epochs = 0;        // of refinement that were asked for
};

nlohmann::ordered_json fit_json(const FitReport& report);
std::string fit_text(const FitReport& report);

}  // namespace tandem
