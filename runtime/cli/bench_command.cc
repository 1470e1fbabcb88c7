// tandem bench: llama-bench's table and field names, with our columns behind them.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/version.h"
#include "runtime/error.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

struct BenchOptions {
  ModelOptions model;
  std::vector<int64_t> prompt{512};
  std::vector<int64_t> generate{128};
  int64_t repetitions = 5;
  std::string output = "md";
  bool json = false;
  bool no_warmup = false;
};

// One test: n_prompt tokens read in batches, or n_gen tokens one by one.
struct Test {
  int64_t n_prompt = 0;
  int64_t n_gen = 0;
  std::string name() const {
    return n_prompt > 0 ? fmt::format("pp{}", n_prompt) : fmt::format("tg{}", n_gen);
  }
};

struct Samples {
  std::vector<double> seconds;
  EngineStats stats;             // of all repetitions
  double modelled_seconds = 0;   // of one repetition, mean
};

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

void run_once(Engine& engine, const Test& test, std::mt19937& random) {
  engine.rewind(0);
  const auto vocab = static_cast<uint32_t>(engine.model().config().n_vocab);
  const auto draw = [&] { return static_cast<int32_t>(random() % vocab); };
  if (test.n_prompt > 0) {
    std::vector<int32_t> tokens(static_cast<size_t>(test.n_prompt));
    for (int32_t& token : tokens) token = draw();
    engine.eval(tokens);
  }
  for (int64_t i = 0; i < test.n_gen; ++i) {
    const int32_t token = draw();
    engine.eval({&token, 1});
  }
}

Samples measure(Engine& engine, const Test& test, const BenchOptions& options,
                Progress* progress) {
  std::mt19937 random(1);
  if (!options.no_warmup) {
    run_once(engine, test.n_prompt > 0 ? Test{test.n_prompt, 0} : Test{0, 1}, random);
  }
  Samples samples;
  const EngineStats before = engine.stats();
  for (int64_t r = 0; r < options.repetitions; ++r) {
    progress->show_count(test.name(), r, options.repetitions);
    const auto start = std::chrono::steady_clock::now();
    run_once(engine, test, random);
    samples.seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  samples.stats = engine.stats();
  samples.modelled_seconds = (samples.stats.modelled_seconds - before.modelled_seconds) /
                             static_cast<double>(options.repetitions);
  samples.stats.cache.hits -= before.cache.hits;
  samples.stats.cache.misses -= before.cache.misses;
  samples.stats.experts.experts_cpu -= before.experts.experts_cpu;
  samples.stats.experts.experts_gpu -= before.experts.experts_gpu;
  samples.stats.bytes_h2d -= before.bytes_h2d;
  return samples;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

int64_t parameter_count(const GgufFile& file) {
  uint64_t n = 0;
  for (const GgufTensor& t : file.tensors()) n += t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3];
  return static_cast<int64_t>(n);
}

// The type that holds most bytes, as llama.cpp's file types are named after.
std::string main_type(const GgufFile& file) {
  std::map<std::string, uint64_t> bytes;
  for (const GgufTensor& t : file.tensors()) bytes[ggml_type_info(t.type_id)->name] += t.size_bytes;
  std::string best;
  for (const auto& [name, n] : bytes) {
    if (best.empty() || n > bytes[best]) best = name;
  }
  for (char& c : best) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return best;
}

Json row(const BenchOptions& options, const Engine& engine, const MachineProfile& machine,
         const Test& test, const Samples& samples) {
  const GgufFile& file = engine.model().file();
  const double tokens = static_cast<double>(test.n_prompt + test.n_gen);
  std::vector<double> ns;
  std::vector<double> ts;
  for (const double s : samples.seconds) {
    ns.push_back(s * 1e9);
    ts.push_back(tokens / s);
  }
  std::map<std::string, EffectiveSetting> effective;
  for (const EffectiveSetting& setting : engine.effective()) effective[setting.name] = setting;
  Json json;
  json["build_commit"] = TANDEM_COMMIT;
  json["build_number"] = 0;
  json["cpu_info"] = cpu_name();
  json["gpu_info"] = engine.device().info().simulated ? engine.device().info().description : "";
  json["backends"] = engine.device().info().name;
  json["model_filename"] = file.name();
  json["model_type"] = engine.model().config().arch + " " + main_type(file);
  json["model_size"] = file.file_bytes();
  json["model_n_params"] = parameter_count(file);
  json["n_batch"] = engine.n_batch();
  json["n_ubatch"] = engine.n_batch();
  json["n_threads"] = std::stoi(effective["threads"].effective);
  json["type_k"] = options.model.kv_type_k;
  json["type_v"] = options.model.kv_type_v;
  json["n_prompt"] = test.n_prompt;
  json["n_gen"] = test.n_gen;
  json["n_depth"] = 0;
  json["test_time"] = timestamp();
  json["avg_ns"] = static_cast<int64_t>(mean(ns));
  json["stddev_ns"] = static_cast<int64_t>(deviation(ns));
  json["avg_ts"] = mean(ts);
  json["stddev_ts"] = deviation(ts);
  json["samples_ns"] = ns;
  json["samples_ts"] = ts;
  json["device"] = engine.device().info().name;
  json["machine"] = machine.name;
  json["modelled_ts"] = tokens / samples.modelled_seconds;
  json["vram_bytes"] = engine.device().info().vram_bytes;
  json["expert_slots"] = engine.n_slots();
  json["cache_policy"] = effective["cache policy"].effective;
  json["cache_hits"] = engine.n_slots() > 0 ? samples.stats.cache.hits : 0;
  json["cache_misses"] = engine.n_slots() > 0 ? samples.stats.cache.misses : 0;
  json["experts_cpu"] = samples.stats.experts.experts_cpu;
  json["experts_gpu"] = samples.stats.experts.experts_gpu;
  json["bytes_h2d"] = samples.stats.bytes_h2d;
  return json;
}

void print_markdown(const std::vector<Json>& rows) {
  print_out("| model | size | params | backend | threads | test | t/s | slots | hits | "
            "experts cpu/gpu | h2d | modelled t/s |\n"
            "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const Json& r : rows) {
    const Test test{r["n_prompt"].get<int64_t>(), r["n_gen"].get<int64_t>()};
    const auto hits = r["cache_hits"].get<double>();
    const double lookups = hits + r["cache_misses"].get<double>();
    print_out(fmt::format(
        "| {} | {} | {:.2f} M | {} | {} | {} | {:.2f} ± {:.2f} | {} | {} | {}/{} | {} | {:.2f} |\n",
        r["model_type"].get<std::string>(), bytes_text(r["model_size"].get<int64_t>()),
        r["model_n_params"].get<double>() / 1e6, r["backends"].get<std::string>(),
        r["n_threads"].get<int>(), test.name(), r["avg_ts"].get<double>(),
        r["stddev_ts"].get<double>(), r["expert_slots"].get<int>(),
        lookups > 0 ? fmt::format("{:.1f} %", 100 * hits / lookups) : "-",
        r["experts_cpu"].get<uint64_t>(), r["experts_gpu"].get<uint64_t>(),
        bytes_text(r["bytes_h2d"].get<int64_t>()), r["modelled_ts"].get<double>()));
  }
  if (!rows.empty()) {
    print_out(fmt::format("\nModelled: computed for machine profile {}, not measured.\n",
                          rows.front()["machine"].get<std::string>()));
  }
}

void print_csv(const std::vector<Json>& rows) {
  const auto line = [](const Json& r, auto&& cell) {
    std::string text;
    for (const auto& [key, value] : r.items()) {
      if (value.is_array()) continue;  // samples do not fit a cell
      text += (text.empty() ? "" : ",") + cell(key, value);
    }
    print_out(text + "\n");
  };
  if (rows.empty()) return;
  line(rows.front(), [](const std::string& key, const Json&) { return key; });
  for (const Json& r : rows) {
    line(r, [](const std::string&, const Json& value) {
      std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) {
        text.insert(at, 1, '"');
      }
      return "\"" + text + "\"";
    });
  }
}

void bench(const BenchOptions& options) {
  std::vector<Test> tests;
  for (const int64_t n : options.prompt) {
    if (n > 0) tests.push_back({n, 0});
  }
  for (const int64_t n : options.generate) {
    if (n > 0) tests.push_back({0, n});
  }
  Progress progress;
  progress.show("loading");
  const Model model = options.model.load_model();
  const MachineProfile machine = options.model.machine();
  std::vector<Json> rows;
  for (const Test& test : tests) {
    EngineSettings settings = options.model.engine_settings();
    if (settings.n_ctx == 0) settings.n_ctx = test.n_prompt + test.n_gen;
    Engine engine(model, machine, settings);
    if (test.n_prompt + test.n_gen > engine.n_ctx()) {
      throw ConfigError(fmt::format("{} needs a context of {}, -c is {}", test.name(),
                                    test.n_prompt + test.n_gen, engine.n_ctx()));
    }
    const Samples samples = measure(engine, test, options, &progress);
    rows.push_back(row(options, engine, machine, test, samples));
    progress.clear();
    if (options.output == "jsonl") print_out(rows.back().dump() + "\n");
  }
  if (options.output == "md") print_markdown(rows);
  if (options.output == "csv") print_csv(rows);
  if (options.output == "json") print_out(Json(rows).dump(2) + "\n");
}

}  // namespace

void add_bench_command(CLI::App* program) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program->add_subcommand("bench", "Measure prefill and decode, like llama-bench");
  app->footer("Example:\n  tandem bench -m model.gguf -p 512 -n 128 -r 5 -o md\n"
              "Lists (-p 128,512) run one test each; 0 leaves a kind out.");
  options->model.add_model(app);
  app->add_option("-p,--n-prompt", options->prompt, "tokens of prompt tests")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app->add_option("-n,--n-gen", options->generate, "tokens of generation tests")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app->add_option("-r,--repetitions", options->repetitions, "repetitions of each test")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app->add_option("-o,--output", options->output, "md, csv, json or jsonl")
      ->check(CLI::IsMember({"md", "csv", "json", "jsonl"}));
  app->add_flag("--json", options->json, "the same as -o json");
  app->add_flag("--no-warmup", options->no_warmup, "do not run each test once before");
  options->model.add_engine(app);
  app->callback([app, options] {
    options->model.apply_config(app);
    if (options->json) options->output = "json";
    bench(*options);
  });
}

}  // namespace tandem
