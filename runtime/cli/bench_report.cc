#include "runtime/cli/bench_report.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <map>
#include <numeric>
#include <string_view>

#include "runtime/cli/host_facts.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/cli/version.h"
#include "runtime/engine/device_choice.h"
#include "runtime/words.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

double mean(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

// Of a sample (n - 1), as llama-bench has it.
double deviation(const std::vector<double>& x) {
  if (x.size() < 2) return 0;
  const double m = mean(x);
  double sum = 0;
  for (const double v : x) sum += (v - m) * (v - m);
  return std::sqrt(sum / static_cast<double>(x.size() - 1));
}

struct ModelSize {
  uint64_t bytes = 0;
  uint64_t parameters = 0;
  std::string type;  // that holds most bytes; llama.cpp's file types are named after it
};

ModelSize model_size(const GgufFile& file) {
  ModelSize size;
  std::map<std::string, uint64_t> by_type;
  for (const GgufTensor& t : file.tensors()) {
    const std::string type(ggml_type_info(t.type_id)->name);
    by_type[type] += t.size_bytes;
    size.bytes += t.size_bytes;
    size.parameters += t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3];
    if (size.type.empty() || by_type[type] > by_type[size.type]) size.type = type;
  }
  for (char& c : size.type) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return size;
}

const EffectiveSetting& find_setting(const std::vector<EffectiveSetting>& settings,
                                     std::string_view name) {
  static const EffectiveSetting kNone{"", "", "0", ""};
  for (const EffectiveSetting& setting : settings) {
    if (setting.name == name) return setting;
  }
  return kNone;
}

// llama-bench's fields that say what ran.
void add_build_and_model(const Engine& engine, Json* json) {
  const DeviceInfo& device = engine.device().info();
  const GgufFile& file = engine.model().file();
  const ModelSize size = model_size(file);
  (*json)["build_commit"] = build_commit();
  (*json)["build_number"] = 0;
  (*json)["cpu_info"] = cpu_name();
  (*json)["gpu_info"] = device.simulated ? device.description : "";
  (*json)["backends"] = device.name;
  (*json)["model_filename"] = file.name();
  (*json)["model_type"] = engine.model().config().arch + " " + size.type;
  (*json)["model_size"] = size.bytes;
  (*json)["model_n_params"] = size.parameters;
}

void add_times(const BenchTest& test, const BenchSamples& samples, Json* json) {
  const auto tokens = static_cast<double>(test.n_prompt + test.n_gen);
  std::vector<double> ns;
  std::vector<double> ts;
  std::vector<int64_t> whole_ns;
  for (const double s : samples.seconds) {
    ns.push_back(s * 1e9);
    ts.push_back(tokens / s);
    whole_ns.push_back(static_cast<int64_t>(s * 1e9));
  }
  (*json)["test_time"] = timestamp();
  (*json)["avg_ns"] = static_cast<int64_t>(mean(ns));
  (*json)["stddev_ns"] = static_cast<int64_t>(deviation(ns));
  (*json)["avg_ts"] = mean(ts);
  (*json)["stddev_ts"] = deviation(ts);
  (*json)["samples_ns"] = whole_ns;
  (*json)["samples_ts"] = ts;
}

std::string markdown_line(const Json& r) {
  const BenchTest test{r["n_prompt"].get<int64_t>(), r["n_gen"].get<int64_t>(),
                       r["n_depth"].get<int64_t>()};
  const auto hits = r["cache_hits"].get<double>();
  const double lookups = hits + r["cache_misses"].get<double>();
  return fmt::format(
      "| {} | {} | {:.2f} M | {} | {} | {} | {:.2f} ± {:.2f} | {} | {} | {}/{} | {} | {:.2f} |\n",
      r["model_type"].get<std::string>(), bytes_text(r["model_size"].get<int64_t>()),
      r["model_n_params"].get<double>() / 1e6, r["backends"].get<std::string>(),
      r["n_threads"].get<int>(), test.name(), r["avg_ts"].get<double>(),
      r["stddev_ts"].get<double>(), r["expert_slots"].get<int>(),
      lookups > 0 ? fmt::format("{:.1f} %", 100 * hits / lookups) : "-",
      r["experts_cpu"].get<uint64_t>(), r["experts_gpu"].get<uint64_t>(),
      bytes_text(r["bytes_h2d"].get<int64_t>()), r["modelled_ts"].get<double>());
}

// Samples and settings do not fit a cell.
bool fits_cell(const Json& value) { return !value.is_structured(); }

std::string csv_names(const Json& row) {
  std::string text;
  for (const auto& [key, value] : row.items()) {
    if (fits_cell(value)) text += (text.empty() ? "" : ",") + key;
  }
  return text + "\n";
}

std::string csv_line(const Json& row) {
  std::string text;
  for (const auto& [key, value] : row.items()) {
    if (!fits_cell(value)) continue;
    std::string cell = value.is_string() ? value.get<std::string>() : json_text(value);
    for (size_t at = 0; (at = cell.find('"', at)) != std::string::npos; at += 2) {
      cell.insert(at, 1, '"');
    }
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ",", cell);
  }
  return text + "\n";
}

}  // namespace

std::string BenchTest::name() const {
  std::string name;
  if (n_prompt > 0) name = fmt::format("pp{}", n_prompt);
  if (n_gen > 0) name += fmt::format("{}tg{}", name.empty() ? "" : "+", n_gen);
  if (n_depth > 0) name += fmt::format(" @ d{}", n_depth);
  return name;
}

Json bench_row(const Engine& engine, const MachineProfile& machine,
               const std::vector<EffectiveSetting>& settings, const BenchTest& test,
               const BenchSamples& samples) {
  const EngineStats& stats = samples.stats;
  const auto tokens = static_cast<double>(test.n_prompt + test.n_gen);
  const bool cached = engine.n_slots() > 0;
  Json json;
  add_build_and_model(engine, &json);
  json["n_batch"] = engine.n_batch();
  json["n_ubatch"] = engine.n_batch();
  json["n_threads"] = std::stoi(find_setting(settings, "threads").effective);
  json["type_k"] = test.type_k;
  json["type_v"] = test.type_v;
  json["n_prompt"] = test.n_prompt;
  json["n_gen"] = test.n_gen;
  json["n_depth"] = test.n_depth;
  add_times(test, samples, &json);
  json["device"] = engine.device().info().name;
  json["machine"] = machine.name;
  json["modelled_ts"] =
      tokens * static_cast<double>(samples.seconds.size()) / stats.modelled_seconds;
  json["vram_bytes"] = engine.device().info().vram_bytes;
  json["expert_slots"] = engine.n_slots();
  json["cache_policy"] = find_setting(settings, "cache policy").effective;
  json["cache_hits"] = cached ? stats.cache.hits : 0;
  json["cache_misses"] = cached ? stats.cache.misses : 0;
  json["experts_cpu"] = stats.experts.experts_cpu;
  json["experts_gpu"] = stats.experts.experts_gpu;
  json["experts_split"] = stats.experts.experts_split;
  json["bytes_h2d"] = stats.bytes_h2d;
  json["settings"] = settings_json(settings);
  return json;
}

void BenchPrinter::print(const Json& row) {
  rows_.push_back(row);
  const bool first = rows_.size() == 1;
  if (format_ == "jsonl") print_out(json_text(row) + "\n");
  if (format_ == "csv") print_out((first ? csv_names(row) : "") + csv_line(row));
  if (format_ != "md") return;
  if (first) {
    print_out(
        "| model | size | params | backend | threads | test | t/s | slots | hits | "
        "experts cpu/gpu | h2d | modelled t/s |\n"
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: |\n");
  }
  print_out(markdown_line(row));
}

void BenchPrinter::finish() {
  if (format_ == "json") print_out(json_text(Json(rows_), 2) + "\n");
  if (format_ == "md" && !rows_.empty()) {
    const Json& row = rows_.front();
    print_out(fmt::format("\nModelled: computed for machine profile {}, not measured.\n",
                          row["machine"].get<std::string>()));
    if (row["device"] == device_name(DeviceKind::kCuda)) {
      print_out(
          printable("Machine profile: " + row["settings"]["machine"]["reason"].get<std::string>()) +
          "\n");
    }
  }
}

}  // namespace tandem
