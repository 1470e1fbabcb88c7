// One step's modelled timeline as SVG for our pages (html.h has the style): lanes for CPU, GPU and
// link. Pure functions; what comes in is escaped here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/timeline.h"

namespace tandem {

struct TimelineStrip {
  std::string name;
  Timeline timeline;  // with the step, and the one before it for copies that reach into this one
  int64_t step = 0;
};

// One below the other on one scale. Empty when none of them has its step.
std::string timeline_svg(const std::vector<TimelineStrip>& strips);
std::string timeline_legend_html();

}  // namespace tandem
