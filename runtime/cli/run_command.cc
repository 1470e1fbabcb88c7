// tandem run: one prompt, one answer.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/sampling_options.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/hot_set.h"
#include "runtime/engine/generate.h"
#include "runtime/error.h"
#include "runtime/model/router_hash.h"
#include "runtime/text/escapes.h"
#include "runtime/text/utf8_stream.h"

namespace tandem {
namespace {

constexpr const char* kDemoPrompt = "Once upon a time";

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt;
  std::string prompt_file;
  int64_t max_tokens = -1;
  bool ignore_eos = false;
  bool json = false;
  bool hide_prompt = false;
  bool keep_escapes = false;
  std::string hot_set;
  std::string save_hot_set;
  CLI::Option* prompt_given = nullptr;
};

// As llama.cpp: the newline that editors and echo put at the end is not part of a prompt.
std::string without_final_newline(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string prompt_text(const RunOptions& options) {
  if (options.prompt_given->count() > 0) {
    return options.keep_escapes ? options.prompt : process_escapes(options.prompt);
  }
  if (!options.prompt_file.empty()) return without_final_newline(read_text(options.prompt_file));
  std::string piped =
      isatty(STDIN_FILENO) == 0 ? without_final_newline(read_text("-")) : std::string();
  if (!piped.empty()) return piped;
  if (options.model.built_in()) return kDemoPrompt;
  throw ConfigError("no prompt: give -p TEXT, -f FILE, or text on standard input");
}

std::vector<TokenId> prompt_tokens(const RunOptions& options, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids = tokenizer.encode(prompt_text(options), true, true);
  if (ids.empty()) {
    throw ConfigError("the prompt is empty, and this model has no token to begin with");
  }
  return ids;
}

void check_fits(const std::vector<TokenId>& prompt, const Engine& engine) {
  if (static_cast<int64_t>(prompt.size()) <= engine.n_ctx()) return;
  throw ConfigError(fmt::format("the prompt is {} tokens long, the context {}; raise -c",
                                prompt.size(), engine.n_ctx()));
}

// The prompt as text in whole characters, whatever bytes it came in.
std::string shown(const Tokenizer& tokenizer, const std::vector<TokenId>& prompt) {
  Utf8Stream stream;
  const std::string text = stream.push(tokenizer.decode(prompt));
  return text + stream.flush();
}

// The hooks refer to all arguments.
GenerationHooks make_hooks(const RunOptions& options, const InterruptGuard& guard,
                           Progress* progress, std::string* text) {
  GenerationHooks hooks;
  hooks.interrupted = [&guard] { return guard.interrupted(); };
  hooks.on_prompt = [progress](int64_t done, int64_t total) {
    progress->show_count("reading the prompt", done, total);
  };
  hooks.on_text = [&options, progress, text](std::string_view piece) {
    progress->clear();
    *text += piece;
    if (!options.json && !piece.empty()) print_out(piece);
  };
  return hooks;
}

// Fills the expert slots from --hot-set, and says what became of it.
EffectiveSetting start_with_hot_set(const std::string& path, Engine* engine) {
  const ModelConfig& config = engine->model().config();
  const HotSet hot = load_hot_set(path);
  const std::string hash = router_hash(engine->model());
  check_hot_set(hot,
                {config.name, hash, static_cast<int32_t>(config.n_layers),
                 static_cast<int32_t>(config.routing.n_experts)},
                path);
  if (engine->n_slots() == 0) return {"hot set", path, "none", "there are no expert slots"};
  const int32_t came_in = engine->start_with(hot);
  return {"hot set", path, fmt::format("{} experts", came_in),
          came_in == 0 ? "no slot was free" : ""};
}

int run(const RunOptions& options) {
  if (!options.save_hot_set.empty()) check_writable(options.save_hot_set);
  Progress progress;
  const auto start = std::chrono::steady_clock::now();
  const Model model = options.model.load_model(&progress);
  const std::chrono::duration<double> load = std::chrono::steady_clock::now() - start;
  const ProcessMemory loaded = process_memory();
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  const MachineProfile machine = options.model.machine();
  const std::vector<TokenId> prompt = prompt_tokens(options, tokenizer);
  Engine engine(model, machine, options.model.engine_settings(&progress));
  check_fits(prompt, engine);
  if (!options.save_hot_set.empty() && engine.n_slots() == 0) {
    throw ConfigError("--save-hot-set: there are no expert slots, so no policy values experts");
  }
  std::vector<EffectiveSetting> effective = options.model.effective(engine, machine);
  if (!options.hot_set.empty()) effective.push_back(start_with_hot_set(options.hot_set, &engine));
  const SamplingSettings sampling = options.sampling.settings();
  Sampler sampler(sampling, model.config().n_vocab, engine.n_ctx());

  const InterruptGuard guard;
  std::string text;
  progress.clear();
  if (!options.json && !options.hide_prompt) print_out(shown(tokenizer, prompt));
  const GenerationResult result =
      generate(engine, tokenizer, sampler, {prompt, options.max_tokens, options.ignore_eos},
               make_hooks(options, guard, &progress, &text));
  progress.clear();
  if (!options.save_hot_set.empty()) {
    HotSet hot = engine.hot_set();
    hot.router_hash = router_hash(model);
    write_file(options.save_hot_set, hot_set_text(hot));
  }
  const RunReport report{engine,    result,       machine, sampling,
                         effective, load.count(), loaded,  process_memory()};
  if (options.json) {
    nlohmann::ordered_json json = summary_json(report);
    json["text"] = text;
    print_out(json_text(json, 2) + "\n");
  } else {
    print_out("\n");
    std::fputs(summary_text(report).c_str(), stderr);
  }
  return result.stop == StopReason::kInterrupted ? kExitInterrupted : 0;
}

}  // namespace

void add_run_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* app = program->add_subcommand("run", "Continue a prompt");
  app->footer(
      "Example:\n  tandem run -m model.gguf -p \"Once upon a time\" -n 128 --device sim "
      "--vram 4096");
  options->model.add_model(app);
  options->prompt_given =
      app->add_option("-p,--prompt", options->prompt, "text to continue")->type_name("TEXT");
  app->add_option("-f,--file", options->prompt_file,
                  "file with the prompt; its final newline is left out")
      ->type_name("FILE")
      ->check(not_empty())
      ->excludes(options->prompt_given);
  app->add_option("-n,--predict,--n-predict", options->max_tokens,
                  "tokens to write; -1: to the end or a full context")
      ->type_name("N")
      ->check(whole_number(-1, int64_t{1} << 40))
      ->capture_default_str();
  options->model.add_engine(app);
  app->add_option("--hot-set", options->hot_set,
                  "start with the experts of a saved hot set in the expert slots")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_option("--save-hot-set", options->save_hot_set,
                  "write the experts that the cache's policy values at the end")
      ->type_name("FILE")
      ->check(not_empty());
  options->sampling.add_to(app);
  app->add_flag("--ignore-eos", options->ignore_eos, "go on where the model would end");
  app->add_flag("--no-display-prompt", options->hide_prompt, "do not print the prompt");
  app->add_flag("--no-escape", options->keep_escapes, "take \\n and the like in -p as they stand");
  app->add_flag("--json", options->json, "print one JSON object at the end, with text and summary");
  app->callback([app, options, exit_code] {
    options->model.apply_config(app);
    *exit_code = run(*options);
  });
}

}  // namespace tandem
