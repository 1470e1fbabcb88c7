// tandem bench: measures reading and writing. Output is in bench_report.
#include <fmt/format.h>

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
  int64_t repetitions = 5;
  std::string output = "md";
  bool json = false;
  bool no_warmup = false;
};

void run_once(Engine& engine, const BenchTest& test, std::mt19937& random) {
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

BenchSamples measure(Engine& engine, const BenchTest& test, const BenchOptions& options,
                     Progress* progress) {
  std::mt19937 random(1);
  if (!options.no_warmup) {
    progress->show(test.name() + ": warming up");
    run_once(engine, test.n_prompt > 0 ? test : BenchTest{0, 1}, random);
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
  for (const int64_t n : options.prompt) {
    if (n > 0) tests.push_back({n, 0, model.kv_type_k, model.kv_type_v});
  }
  for (const int64_t n : options.generate) {
    if (n > 0) tests.push_back({0, n, model.kv_type_k, model.kv_type_v});
  }
  if (tests.empty()) throw ConfigError("nothing to measure: -p and -n are 0");
  for (const BenchTest& test : tests) {
    const int64_t needed = test.n_prompt + test.n_gen;
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
    EngineSettings settings = options.model.engine_settings();
    if (settings.n_ctx == 0) settings.n_ctx = test.n_prompt + test.n_gen;
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
