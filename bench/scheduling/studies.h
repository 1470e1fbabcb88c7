// Each study simulates its cells, writes one CSV row for each system and cell, and prints tables.
// All speeds are modelled.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/scheduling/grid.h"

namespace tandem::bench {

struct StudyOptions {
  GridOptions grid;
  std::string ours = "tandem";       // a policy's name or file
  std::vector<std::string> systems;  // only these beside ours; empty: all
  int32_t prefill = 0;               // tokens of a prompt; 0: decoding
  std::FILE* csv = nullptr;          // raw rows, or null
};

// Ours beside HybriMoE, static placements and the bounds.
void speed_study(const StudyOptions& options);

}  // namespace tandem::bench
