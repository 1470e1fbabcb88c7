// What tandem simulate prints: one row for each combination, as a table, CSV or JSON. All speeds
// are modelled.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/scheduling_settings.h"
#include "scheduler/simulator.h"
#include "scheduler/timeline.h"

namespace tandem {

struct SimulateRow {
  std::string machine;
  std::string model;
  std::string trace;
  std::string cache;  // "25%" or "4096 MiB"
  int64_t cache_bytes = 0;
  SchedulingSettings settings;
  // What the policy's predictor reads, if it reads one: "oracle 0.85", "linear (recorded)".
  std::optional<std::string> lookahead;
  std::optional<SimResult> decode;
  std::optional<double> clairvoyant_decode_tps;
  std::optional<double> bound_decode_tps;
  int32_t prefill_tokens = 0;
  std::optional<SimResult> prefill;
  std::optional<double> clairvoyant_prefill_tps;
  std::optional<double> bound_prefill_tps;
};

// The table's columns: what people read first.
struct SimulateTable {
  std::vector<bool> is_number;                  // by column
  std::vector<std::vector<std::string>> cells;  // the first line is the heading
};
SimulateTable simulate_table(const std::vector<SimulateRow>& rows);

nlohmann::ordered_json row_json(const SimulateRow& row);
// output: md, csv, json, jsonl. Ends with a newline.
std::string rows_text(const std::vector<SimulateRow>& rows, const std::string& output);

// The Trace Event Format that Perfetto and chrome://tracing open; microseconds, modelled.
std::string timeline_json(const Timeline& timeline);

}  // namespace tandem
