// tandem trace: records which experts a model uses.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/prompt_file.h"
#include "runtime/cli/sampling_options.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/engine/generate.h"
#include "runtime/error.h"
#include "runtime/model/router_hash.h"
#include "runtime/model/shape_of_model.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_file.h"
#include "runtime/trace/trace_recorder.h"
#include "runtime/words.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

constexpr int32_t kDistances = 3;

struct TraceOptions {
  ModelOptions model;
  SamplingOptions sampling{0.0F};
  std::string prompts;
  std::string out;
  int64_t max_tokens = 128;
  bool ignore_eos = false;
  bool json = false;
};

TraceHeader make_header(const Model& model, const EngineSettings& settings) {
  const ModelShape shape = shape_of(model);
  TraceHeader header;
  header.model = printable(shape.name);
  header.model_hash = router_hash(model);
  header.n_layers = shape.n_layers;
  header.n_experts = shape.n_experts;
  header.top_k = shape.top_k;
  header.n_ranks = std::min(2 * shape.top_k, shape.n_experts);
  header.n_ahead = std::min(kDistances, shape.n_layers - 1);
  if (settings.pregate) header.n_ahead = std::min(header.n_ahead, settings.pregate->n_distances);
  header.expert_bytes = shape.expert_bytes;
  if (header.n_ahead > 0) {
    const std::string& predictor = settings.scheduling.predictor;
    header.lookahead = settings.router           ? LookaheadName::kDecoupled
                       : needs_tables(predictor) ? predictor
                       : settings.pregate        ? LookaheadName::kLinear
                                                 : LookaheadName::kGateReuse;
  }
  const std::string fault = find_header_fault(header);
  if (!fault.empty()) throw FileError(model.file().name(), "cannot be traced: " + fault);
  return header;
}

void reserve(const TraceOptions& options, const Prompts& prompts, const Engine& engine,
             TraceRecorder* recorder) {
  int64_t most = 0;
  for (const auto& prompt : prompts) {
    most += std::min(static_cast<int64_t>(prompt.size()) + options.max_tokens, engine.n_ctx());
  }
  recorder->reserve(most);
}

// False when it was interrupted.
bool record(const TraceOptions& options, const Prompts& prompts, const Tokenizer& tokenizer,
            const InterruptGuard& guard, Engine* engine, TraceRecorder* recorder) {
  Progress progress;
  engine->set_routing_hook([&](const RoutingDecision& routing) { recorder->observe(routing); });
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string which = fmt::format("prompt {} of {}", i + 1, prompts.size());
    GenerationHooks hooks;
    hooks.interrupted = [&] { return guard.interrupted(); };
    hooks.on_prompt = [&](int64_t done, int64_t total) {
      progress.show_count(which + ", reading", done, total);
    };
    int64_t written = 0;
    hooks.on_text = [&](std::string_view) {
      progress.show_count(which + ", writing", written++, options.max_tokens);
    };
    engine->rewind(0);
    recorder->begin_sequence(static_cast<int64_t>(prompts[i].size()));
    Sampler sampler(options.sampling.settings(), engine->model().config().n_vocab, engine->n_ctx());
    const GenerationResult result = generate(
        *engine, tokenizer, sampler, {prompts[i], options.max_tokens, options.ignore_eos}, hooks);
    if (result.stop == StopReason::kInterrupted) return false;
  }
  return true;
}

// side_car: where the lookahead was fitted, its file.
void report(const TraceOptions& options, const std::string& side_car, const Trace& trace,
            int64_t file_bytes, const std::vector<EffectiveSetting>& effective) {
  const std::vector<double> recall = lookahead_recall(trace);
  const int32_t sequences = trace.steps.back().sequence + 1;
  if (options.json) {
    print_out(json_text({{"file", options.out},
                         {"tokens", trace.n_tokens()},
                         {"steps", trace.steps.size()},
                         {"sequences", sequences},
                         {"bytes", file_bytes},
                         {"model_hash", trace.header.model_hash},
                         {"lookahead", trace.header.lookahead},
                         {"pregate", side_car},
                         {"recall", recall},
                         {"settings", settings_json(effective)}},
                        2) +
              "\n");
    return;
  }
  std::fputs(settings_text(effective).c_str(), stderr);
  const std::string who =
      trace.header.lookahead + (side_car.empty() ? "" : fmt::format(" ({})", printable(side_car)));
  std::string line = fmt::format("{} tokens, {} steps, sequences: {}, {}", trace.n_tokens(),
                                 trace.steps.size(), sequences, bytes_text(file_bytes));
  for (size_t i = 0; i < recall.size(); ++i) {
    line += i == 0 ? fmt::format("; recall of {}", who) : ",";
    line += fmt::format(" {:.3f} at {}", recall[i], i + 1);
  }
  std::fprintf(stderr, "  wrote         %s: %s\n", printable(options.out).c_str(), line.c_str());
}

int trace(const TraceOptions& options) {
  check_writable(options.out);
  Progress progress;
  const Model model = options.model.load_model(&progress);
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  const Prompts prompts = read_prompts(options.prompts, tokenizer);
  EngineSettings settings = options.model.engine_settings(&progress);
  settings.recorded_distances = kDistances;
  TraceRecorder recorder(make_header(model, settings));
  const MachineProfile machine = options.model.machine();
  Engine engine(model, machine, settings);
  check_prompts_fit(prompts, engine.n_ctx());
  reserve(options, prompts, engine, &recorder);
  progress.clear();

  const InterruptGuard guard;  // Ctrl-C waits for a file that is being written
  if (!record(options, prompts, tokenizer, guard, &engine, &recorder)) {
    std::fprintf(stderr, "tandem trace: interrupted; %s was not written\n",
                 printable(options.out).c_str());
    return kExitInterrupted;
  }
  const Trace recorded = recorder.finish();
  const int64_t file_bytes = write_trace(recorded, options.out);
  report(options, settings.pregate_from, recorded, file_bytes,
         options.model.effective(engine, machine));
  return guard.interrupted() ? kExitInterrupted : 0;
}

}  // namespace

void add_trace_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<TraceOptions>();
  CLI::App* app = program->add_subcommand("trace", "Record which experts a model uses");
  app->footer(
      "Example:\n  tandem trace -m model.gguf -f prompts.txt -n 64 --out routes.trace\n"
      "Prompts stand between lines that hold nothing but ---; a file without one is one prompt.\n"
      "Beside the selection go the next best experts and what later gates say 1 to 3 layers "
      "early.\nThe trace is kept in memory until it is written.");
  options->model.add_model(app);
  const CLI::Option* prompts =
      app->add_option("-f,--file", options->prompts,
                      "text file with prompts; -: standard input (required)")
          ->type_name("FILE")
          ->check(not_empty());
  const CLI::Option* out =
      app->add_option("--out", options->out, "the trace, for tandem simulate --trace (required)")
          ->type_name("FILE")
          ->check(not_empty());
  app->add_option("-n,--predict,--n-predict", options->max_tokens,
                  "most tokens to write after each prompt")
      ->type_name("N")
      ->check(whole_number(0, int64_t{1} << 24))
      ->capture_default_str();
  options->model.add_engine(app);
  options->sampling.add_to(app);
  app->add_flag("--ignore-eos", options->ignore_eos, "go on where the model would end");
  app->add_flag("--json", options->json, "print what was recorded as JSON");
  app->callback([app, options, exit_code, prompts, out] {
    options->model.apply_config(app);
    need(prompts);
    need(out);
    *exit_code = trace(*options);
  });
}

}  // namespace tandem
