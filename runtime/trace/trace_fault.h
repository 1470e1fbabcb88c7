// What a trace must be, whoever made it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "scheduler/trace.h"

namespace tandem {

constexpr int64_t kMaxExpertBytes = int64_t{1} << 40;
constexpr size_t kMaxModelName = 4096;  // bytes; of the hash as well

struct TraceFault {
  enum class Part { kHeader, kSteps, kIds, kWeights, kPredicted };
  Part part = Part::kHeader;
  int64_t token = 0;  // row and layer of the last three parts
  int32_t layer = 0;
  std::string what;
};

// What breaks the limits or contradicts itself, or "".
std::string find_header_fault(const TraceHeader& header);

// The first fault: of the header, the steps (in order, one after the other), the sizes of the
// arrays, or of a token: ids in range and different, none after a missing one (in the selection
// and in the ranks behind it), weights finite, not negative and 0 where there is no expert.
std::optional<TraceFault> find_trace_fault(const Trace& trace);

}  // namespace tandem
