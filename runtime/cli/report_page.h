// tandem simulate --report: one HTML page that needs nothing but itself, with charts of the rows.
// A pure function. Names of files and policies may hold anything.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/cli/hit_rates.h"
#include "runtime/cli/simulate_rows.h"
#include "runtime/cli/svg_timeline.h"

namespace tandem {

struct Report {
  std::string command;
  int64_t seed = 0;
  std::vector<SimulateRow> rows;
  std::vector<HitRate> hit_rates;
  std::string timeline_of;  // machine, model, trace and cache of the strips
  std::vector<TimelineStrip> strips;
};

std::string report_page(const Report& report);

}  // namespace tandem
