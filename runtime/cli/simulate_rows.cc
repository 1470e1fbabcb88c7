#include "runtime/cli/simulate_rows.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/config/scheduling_policy.h"
#include "runtime/error.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

// The share of the clairvoyant's speed that is missing.
std::optional<double> gap(const std::optional<SimResult>& result, std::optional<double> best) {
  if (!result || !best || *best <= 0) return {};
  return 1 - result->tokens_per_second() / *best;
}

// Of what the policy's predictor reads, so many layers ahead, where it guessed for a decoded token.
std::optional<double> lookahead_recall(const SimulateRow& row, size_t distance) {
  if (!row.lookahead || !row.decode || row.decode->lookahead.size() < distance) return {};
  const LookaheadScore& score = row.decode->lookahead[distance - 1];
  return score.tokens > 0 ? std::optional(score.recall) : std::nullopt;
}

Json number(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

void add_decode(const SimResult& result, Json* json) {
  const SimTotals& t = result.totals;
  const auto share = [&](double busy) { return t.seconds > 0 ? busy / t.seconds : 0; };
  (*json)["decode_tps"] = result.tokens_per_second();
  (*json)["hit_rate"] = result.hit_rate();
  (*json)["hit_rate_cold"] = SimResult::hit_rate_of(result.cold);
  (*json)["decode_tokens"] = result.tokens;
  (*json)["cpu_busy"] = share(t.cpu_busy);
  (*json)["gpu_busy"] = share(t.gpu_busy);
  (*json)["link_busy"] = share(t.link_busy);
  (*json)["dram_busy"] = share(t.dram_busy);
  (*json)["cpu_stall"] = share(t.cpu_waits);
  (*json)["gpu_stall"] = share(t.gpu_waits);
  (*json)["link_stall"] = share(t.link_waits);
  (*json)["bytes_demand"] = t.bytes_demand;
  (*json)["bytes_prefetched"] = t.bytes_prefetched;
  (*json)["experts_cpu"] = t.experts_cpu;
  (*json)["experts_gpu"] = t.experts_gpu;
  (*json)["experts_split"] = t.experts_split;
  const TransferStats& p = result.transfers;
  (*json)["prefetch_started"] = p.started;
  (*json)["prefetch_on_time"] = p.on_time;
  (*json)["prefetch_late"] = p.late;
  (*json)["prefetch_unused"] = p.unused;
  (*json)["prefetch_polluting"] = p.polluting;
  (*json)["prefetch_wasted_bytes"] = p.wasted_bytes;
}

// The columns of the table: key, heading, format of numbers.
struct Column {
  const char* key;
  const char* heading;
  const char* form;
};
constexpr Column kColumns[] = {
    {"machine", "machine", ""},
    {"model", "model", ""},
    {"trace", "trace", ""},
    {"cache", "cache", ""},
    {"scheduling", "scheduling", ""},
    {"policy", "policy", ""},
    {"planner", "planner", ""},
    {"predictor", "predictor", ""},
    {"lookahead", "lookahead", ""},
    {"lookahead_recall_1", "recall", "{:.3f}"},
    {"prefill_tokens", "prompt", "{:.0f}"},
    {"prefill_tps", "prefill t/s", "{:.1f}"},
    {"clairvoyant_prefill_tps", "clairvoyant", "{:.1f}"},
    {"bound_prefill_tps", "bound", "{:.1f}"},
    {"decode_tps", "decode t/s", "{:.2f}"},
    {"hit_rate", "hits", "{:.3f}"},
    {"hit_rate_cold", "cold", "{:.3f}"},
    {"clairvoyant_decode_tps", "clairvoyant", "{:.2f}"},
    {"clairvoyant_gap", "gap", "{:.3f}"},
    {"bound_decode_tps", "bound", "{:.2f}"},
};

std::string cell(const Json& value, const char* form) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.get<std::string>();
  return fmt::format(fmt::runtime(form), value.get<double>());
}

std::string table(const std::vector<SimulateRow>& rows) {
  const auto cells = simulate_table(rows).cells;
  std::string text;
  for (size_t r = 0; r < cells.size(); ++r) {
    std::string rule;
    for (size_t c = 0; c < cells[r].size(); ++c) {
      size_t width = 0;
      for (const auto& line : cells) width = std::max(width, line[c].size());
      text += fmt::format("| {:<{}} ", cells[r][c], width);
      rule += fmt::format("| {:-<{}} ", "", width);
    }
    text += "|\n";
    if (r == 0) text += rule + "|\n";
  }
  return text + "\nAll speeds are modelled, in tokens per second.\n";
}

std::string csv(const std::vector<SimulateRow>& rows) {
  std::string text;
  for (const SimulateRow& row : rows) {
    const Json json = row_json(row);
    std::string head;
    std::string line;
    for (const auto& [key, value] : json.items()) {
      const char* comma = head.empty() ? "" : ",";
      head += comma + key;
      // Quoted as RFC 4180 has it.
      std::string quoted = value.is_string() ? value.get<std::string>() : "";
      for (size_t i = 0; (i = quoted.find('"', i)) != std::string::npos; i += 2) {
        quoted.insert(i, 1, '"');
      }
      line += comma;
      line += value.is_string() ? "\"" + quoted + "\"" : value.is_null() ? "" : value.dump();
    }
    if (text.empty()) text += head + "\n";
    text += line + "\n";
  }
  return text;
}

}  // namespace

SimulateTable simulate_table(const std::vector<SimulateRow>& rows) {
  SimulateTable table;
  table.cells.resize(1);
  for (const Column& column : kColumns) {
    table.is_number.push_back(*column.form != '\0');
    table.cells[0].emplace_back(column.heading);
  }
  for (const SimulateRow& row : rows) {
    const Json json = row_json(row);
    std::vector<std::string>& line = table.cells.emplace_back();
    for (const Column& column : kColumns) line.push_back(cell(json[column.key], column.form));
  }
  return table;
}

Json row_json(const SimulateRow& row) {
  const SchedulingSettings& s = row.settings;
  Json json;
  json["machine"] = row.machine;
  json["model"] = row.model;
  json["trace"] = row.trace;
  json["cache"] = row.cache;
  json["cache_bytes"] = row.cache_bytes;
  json["scheduling"] = s.name;
  json["planner"] = s.planner;
  json["policy"] = s.policy;
  json["pool"] = pool_name(s.pool);
  json["predictor"] = s.predictor;
  json["lookahead"] = row.lookahead ? Json(*row.lookahead) : Json();
  for (size_t d = 1; d <= 3; ++d) {
    json[fmt::format("lookahead_recall_{}", d)] = number(lookahead_recall(row, d));
  }
  json["prefetcher"] = s.prefetcher;
  json["modelled"] = true;
  json["prefill_tokens"] = row.prefill_tokens;
  json["prefill_tps"] =
      number(row.prefill ? std::optional(row.prefill->tokens_per_second()) : std::nullopt);
  json["clairvoyant_prefill_tps"] = number(row.clairvoyant_prefill_tps);
  json["bound_prefill_tps"] = number(row.bound_prefill_tps);
  json["decode_tps"] = Json();
  json["hit_rate"] = Json();
  if (row.decode) add_decode(*row.decode, &json);
  json["clairvoyant_decode_tps"] = number(row.clairvoyant_decode_tps);
  json["clairvoyant_gap"] = number(gap(row.decode, row.clairvoyant_decode_tps));
  json["bound_decode_tps"] = number(row.bound_decode_tps);
  return json;
}

std::string rows_text(const std::vector<SimulateRow>& rows, const std::string& output) {
  if (output == "csv") return csv(rows);
  if (output == "md") return table(rows);
  Json all = Json::array();
  std::string lines;
  for (const SimulateRow& row : rows) {
    all.push_back(row_json(row));
    lines += all.back().dump() + "\n";
  }
  return output == "json" ? all.dump(2) + "\n" : lines;
}

std::string timeline_json(const Timeline& timeline) {
  constexpr const char* kNames[] = {"CPU", "GPU", "link"};
  Json events = Json::array();
  for (size_t i = 0; i < std::size(kNames); ++i) {
    events.push_back({{"ph", "M"},
                      {"pid", 1},
                      {"tid", i},
                      {"name", "thread_name"},
                      {"args", {{"name", kNames[i]}}}});
  }
  for (const TimelineSpan& span : timeline.spans) {
    Json args{{"layer", span.key.layer.value}, {"step", span.step}};
    if (span.key.expert.valid()) args["expert"] = span.key.expert.value;
    events.push_back({{"ph", "X"},
                      {"pid", 1},
                      {"tid", static_cast<int>(span.resource)},
                      {"name", span.what},
                      {"ts", span.begin},
                      {"dur", span.end - span.begin},
                      {"args", args}});
  }
  const Json file{{"displayTimeUnit", "ms"},
                  {"otherData", {{"times", "modelled"}, {"spans left out", timeline.left_out}}},
                  {"traceEvents", events}};
  return file.dump() + "\n";
}

}  // namespace tandem
