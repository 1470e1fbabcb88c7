// Hit rates of eviction policies alone, for the report: no clock, no prefetch. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/model_shape.h"
#include "scheduler/scheduling_settings.h"
#include "scheduler/trace.h"

namespace tandem {

struct HitRate {
  std::string model;
  std::string trace;
  std::string cache;  // as in the rows
  int64_t cache_bytes = 0;
  std::string policy;  // with its pool: "lru, shared slots"
  bool bound = false;  // Belady's
  double value = 0;
};

// Each eviction policy in use, and Belady's optimum for each shape of the pool in use. The measured
// decode steps only, from the same contents, every missed expert admitted but by static placements:
// so no eviction beats Belady as long as the experts of one token fit. `same` has the fields that
// all of them share.
std::vector<HitRate> replay_hit_rates(const Trace& trace, const ModelShape& shape,
                                      const std::vector<SchedulingSettings>& settings,
                                      const HitRate& same);

}  // namespace tandem
