// tandem perplexity: how well a model predicts a text.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/engine/perplexity.h"
#include "runtime/error.h"

namespace tandem {
namespace {

struct PerplexityOptions {
  ModelOptions model;
  std::string file;
  bool json = false;
};

void report(const PerplexityOptions& options, const Engine& engine, const MachineProfile& machine,
            const Perplexity& result, int64_t total) {
  const std::vector<EffectiveSetting> effective = options.model.effective(engine, machine);
  const bool none = result.chunks == 0;  // interrupted in the first: there is no value
  if (options.json) {
    const auto value = [&](double x) { return none ? nlohmann::json() : nlohmann::json(x); };
    print_out(json_text({{"model", engine.model().config().name},
                         {"perplexity", value(result.value)},
                         {"uncertainty", value(result.uncertainty)},
                         {"chunks", result.chunks},
                         {"chunks_of_text", total},
                         {"scored_tokens", result.scored_tokens},
                         {"n_ctx", engine.n_ctx()},
                         {"settings", settings_json(effective)}},
                        2) +
              "\n");
    return;
  }
  std::fputs(settings_text(effective).c_str(), stderr);
  if (none) {
    print_out(fmt::format("Interrupted: no chunk of {} tokens was read\n", engine.n_ctx()));
    return;
  }
  print_out(fmt::format("{} estimate: PPL = {:.4f} +/- {:.5f} ({} chunks of {} tokens)\n",
                        result.chunks == total ? "Final" : "Interrupted", result.value,
                        result.uncertainty, result.chunks, engine.n_ctx()));
}

int run(const PerplexityOptions& options) {
  constexpr int64_t kDefaultChunk = 512;  // llama-perplexity's
  Progress progress;
  EngineSettings settings = options.model.engine_settings(&progress);
  if (settings.n_ctx == 0) settings.n_ctx = kDefaultChunk;
  settings.max_logits = settings.n_batch;
  const std::string text = read_text(options.file);
  const Model model = options.model.load_model(&progress);
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  const MachineProfile machine = options.model.machine();
  Engine engine(model, machine, settings);
  progress.show("tokenizing");
  const std::vector<TokenId> tokens = tokenizer.encode(text, true, false);
  const InterruptGuard guard;
  const int64_t chunks = static_cast<int64_t>(tokens.size()) / engine.n_ctx();
  PerplexityHooks hooks;
  hooks.interrupted = [&] { return guard.interrupted(); };
  hooks.on_chunk = [&](const Perplexity& so_far) {
    progress.show(fmt::format("chunk {} of {}: {:.4f}", so_far.chunks, chunks, so_far.value));
  };
  const Perplexity result = perplexity(engine, tokenizer, tokens, engine.n_ctx(), hooks);
  progress.clear();
  report(options, engine, machine, result, chunks);
  return result.chunks < chunks ? kExitInterrupted : 0;
}

}  // namespace

void add_perplexity_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<PerplexityOptions>();
  CLI::App* app =
      program->add_subcommand("perplexity", "Perplexity of a text, as llama-perplexity defines it");
  app->footer(
      "Example:\n  tandem perplexity -m model.gguf -f text.txt -c 512\n"
      "The text is cut into chunks of -c tokens (512 without -c).");
  options->model.add_model(app);
  const CLI::Option* file =
      app->add_option("-f,--file", options->file, "the text; -: standard input (required)")
          ->type_name("FILE")
          ->check(not_empty());
  app->add_flag("--json", options->json, "print JSON");
  options->model.add_engine(app);
  app->callback([app, options, exit_code, file] {
    options->model.apply_config(app);
    need(file);
    *exit_code = run(*options);
  });
}

}  // namespace tandem
