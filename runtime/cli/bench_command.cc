// tandem bench: measures reading and writing. Output is in bench_report.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "runtime/cli/bench_report.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/error.h"

namespace tandem {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::vector<int64_t> prompt{512};
  std::vector<int64_t> generate{128};
  std::vector<std::string> both;  // "512,128": a prompt, and what is generated behind it
  std::vector<int64_t> depth{0};
  int64_t repetitions = 5;
  std::string output = "md";
  bool json = false;
  bool no_warmup = false;
};

void read_tokens(Engine& engine, int64_t n, std::mt19937& random) {
  if (n == 0) return;
  const auto vocab = static_cast<uint32_t>(engine.model().config().n_vocab);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  engine.eval(tokens);
}

// Behind the tokens of test.n_depth, which stay.
void run_once(Engine& engine, const BenchTest& test, std::mt19937& random) {
  engine.rewind(test.n_depth);
  read_tokens(engine, test.n_prompt, random);
  for (int64_t i = 0; i < test.n_gen; ++i) read_tokens(engine, 1, random);
}

BenchSamples measure(Engine& engine, const BenchTest& test, const BenchOptions& options,
                     Progress* progress) {
  std::mt19937 random(1);
  if (test.n_depth > 0) {
    progress->show(fmt::format("{}: reading {} tokens", test.name(), test.n_depth));
    read_tokens(engine, test.n_depth, random);
  }
  if (!options.no_warmup) {
    progress->show(test.name() + ": warming up");
    BenchTest warmup = test;
    warmup.n_gen = std::min<int64_t>(test.n_gen, 1);
    run_once(engine, warmup, random);
  }
  BenchSamples samples;
  const EngineStats before = engine.stats();
  for (int64_t r = 0; r < options.repetitions; ++r) {
    progress->show_count(test.name(), r, options.repetitions);
    const auto start = std::chrono::steady_clock::now();
    run_once(engine, test, random);
    samples.seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  samples.stats = engine.stats();
  samples.stats.modelled_seconds -= before.modelled_seconds;
  samples.stats.cache.hits -= before.cache.hits;
  samples.stats.cache.misses -= before.cache.misses;
  samples.stats.experts.experts_cpu -= before.experts.experts_cpu;
  samples.stats.experts.experts_gpu -= before.experts.experts_gpu;
  samples.stats.experts.experts_split -= before.experts.experts_split;
  samples.stats.bytes_h2d -= before.bytes_h2d;
  return samples;
}

// ConfigError before anything is loaded, so that no test runs when a later one cannot.
std::vector<BenchTest> list_tests(const BenchOptions& options) {
  const ModelOptions& model = options.model;
  std::vector<BenchTest> tests;
  for (const int64_t depth : options.depth) {
    const auto add = [&](int64_t n_prompt, int64_t n_gen) {
      if (n_prompt + n_gen == 0) return;
      tests.push_back({n_prompt, n_gen, depth, model.kv_type_k, model.kv_type_v});
    };
    for (const int64_t n : options.prompt) add(n, 0);
    for (const int64_t n : options.generate) add(0, n);
    for (const std::string& sizes : options.both) {
      const size_t comma = sizes.find(',');
      add(std::stoll(sizes.substr(0, comma)), std::stoll(sizes.substr(comma + 1)));
    }
  }
  if (tests.empty()) throw ConfigError("nothing to measure: -p and -n are 0");
  for (const BenchTest& test : tests) {
    const int64_t needed = test.n_context();
    if (model.n_ctx > 0 && needed > model.n_ctx) {
      throw ConfigError(
          fmt::format("{} needs a context of {}, -c is {}", test.name(), needed, model.n_ctx));
    }
  }
  return tests;
}

// "-p 128,512" or "-p 128 -p 512"
void add_sizes(CLI::App* app, const char* flags, const char* what, std::vector<int64_t>* sizes) {
  app->add_option(flags, *sizes, what)
      ->type_name("N,..")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(whole_number(0, 1 << 24))
      ->default_str(std::to_string(sizes->front()));
}

void bench(const BenchOptions& options) {
  const std::vector<BenchTest> tests = list_tests(options);
  Progress progress;
  const Model model = options.model.load_model(&progress);
  const MachineProfile machine = options.model.machine();
  BenchPrinter printer(options.output);
  for (const BenchTest& test : tests) {
    EngineSettings settings = options.model.engine_settings(&progress);
    if (settings.n_ctx == 0) settings.n_ctx = test.n_context();
    Engine engine(model, machine, settings);
    const BenchSamples samples = measure(engine, test, options, &progress);
    progress.clear();
    printer.print(
        bench_row(engine, machine, options.model.effective(engine, machine), test, samples));
  }
  printer.finish();
}

}  // namespace

void add_bench_command(CLI::App* program) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program->add_subcommand("bench", "Measure prefill and decode, like llama-bench");
  app->footer(
      "Example:\n  tandem bench -m model.gguf -p 512 -n 128 -r 5 -o md\n"
      "Lists (-p 128,512) run one test each; 0 leaves a kind out.");
  options->model.add_model(app);
  add_sizes(app, "-p,--n-prompt", "tokens of prompt tests", &options->prompt);
  add_sizes(app, "-n,--n-gen", "tokens of generation tests", &options->generate);
  app->add_option("--pg", options->both, "tests that read a prompt, then generate; also -pg")
      ->type_name("N,M")
      ->allow_extra_args(false)
      ->check(CLI::Validator(
          [size = whole_number(0, 1 << 24)](std::string& text) -> std::string {
            const size_t comma = text.find(',');
            if (comma == std::string::npos) return fmt::format("\"{}\" is not N,M", text);
            std::string n = text.substr(0, comma);
            std::string m = text.substr(comma + 1);
            const std::string wrong = size(n);
            return wrong.empty() ? size(m) : wrong;
          },
          ""));
  add_sizes(app, "-d,--n-depth", "tokens before each test, not measured", &options->depth);
  app->add_option("-r,--repetitions", options->repetitions, "repetitions of each test")
      ->type_name("N")
      ->check(whole_number(1, 100000))
      ->capture_default_str();
  CLI::Option* output = app->add_option("-o,--output", options->output, "form of the results")
                            ->type_name("md|csv|json|jsonl")
                            ->check(one_of({"md", "csv", "json", "jsonl"}))
                            ->capture_default_str();
  app->add_flag("--json", options->json, "the same as -o json")->excludes(output);
  app->add_flag("--no-warmup", options->no_warmup,
                "leave out the run before each test that is not measured");
  options->model.add_engine(app);
  app->callback([app, options] {
    options->model.apply_config(app);
    if (options->json) options->output = "json";
    bench(*options);
  });
}

}  // namespace tandem
