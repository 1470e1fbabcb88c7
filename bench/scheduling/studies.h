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
// What each part of ours is worth alone, on every machine.
void parts_study(const StudyOptions& options);
// What looking ahead is worth, for each of these recalls one layer ahead.
void lookahead_study(const StudyOptions& options, const std::vector<double>& recalls);
// What a prompt leaves for decoding: hit rates of the first tokens after it.
void handover_study(const StudyOptions& options);
// HybriMoE's Table III and its average over three models, beside what the paper publishes.
void paper_study(const StudyOptions& options);
// What planning takes of a core of this machine, allocations, and a simulation of a million layers.
void thinking_study(const StudyOptions& options);
struct HitsOptions {
  bool prompts = false;             // their tokens as well, one by one; else decoding alone
  int64_t users = 1;                // at a time, whose tokens take turns
  std::vector<int64_t> windows{2};  // of windowed-belady: tokens whose routing is known
};
// Hit rates of all eviction policies beside Belady's, with the cache alone: no times. Throws when
// Belady is beaten.
void hits_study(const StudyOptions& options, const HitsOptions& hits);
// Caches that others have replayed the same traces with; a part of hits_study().
void print_known_answers(const std::vector<Workload>& loads);

// Ours with a profile each of whose terms in turn is off by `error`, a share of 1: without and with
// calibration, beside the right profile and a static placement.
void robustness_study(const StudyOptions& options, double error);

}  // namespace tandem::bench
