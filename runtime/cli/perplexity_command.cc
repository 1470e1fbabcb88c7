// tandem perplexity: how well a model predicts a text.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/progress.h"
#include "runtime/engine/perplexity.h"
#include "runtime/error.h"

namespace tandem {
namespace {

struct PerplexityOptions {
  ModelOptions model;
  std::string file;
  bool json = false;
};

void run(const PerplexityOptions& options) {
  constexpr int64_t kDefaultChunk = 512;  // llama-perplexity's
  Progress progress;
  progress.show("loading");
  const Model model = options.model.load_model();
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  EngineSettings settings = options.model.engine_settings();
  if (settings.n_ctx == 0) settings.n_ctx = kDefaultChunk;
  settings.max_logits = settings.n_batch;
  Engine engine(model, options.model.machine(), settings);
  progress.show("tokenizing");
  const std::vector<TokenId> tokens = tokenizer.encode(read_text(options.file), true, false);
  const Perplexity result = perplexity(
      engine, tokenizer, tokens, engine.n_ctx(), [&](const Perplexity& so_far, int64_t total) {
        progress.show(fmt::format("chunk {} of {}: {:.4f}", so_far.chunks, total, so_far.value));
        return true;
      });
  progress.clear();
  if (options.json) {
    const nlohmann::ordered_json json{{"model", model.config().name},
                                      {"perplexity", result.value},
                                      {"uncertainty", result.uncertainty},
                                      {"chunks", result.chunks},
                                      {"scored_tokens", result.scored_tokens},
                                      {"n_ctx", engine.n_ctx()}};
    print_out(json.dump(2) + "\n");
  } else {
    print_out(fmt::format("Final estimate: PPL = {:.4f} +/- {:.5f} ({} chunks of {} tokens)\n",
                          result.value, result.uncertainty, result.chunks, engine.n_ctx()));
  }
}

}  // namespace

void add_perplexity_command(CLI::App* program) {
  const auto options = std::make_shared<PerplexityOptions>();
  CLI::App* app = program->add_subcommand(
      "perplexity", "Perplexity of a text, as llama-perplexity defines it");
  app->footer("Example:\n  tandem perplexity -m model.gguf -f text.txt -c 512");
  options->model.add_model(app);
  app->add_option("-f,--file", options->file, "the text")->required();
  app->add_flag("--json", options->json, "print JSON");
  options->model.add_engine(app);
  app->callback([app, options] {
    options->model.apply_config(app);
    run(*options);
  });
}

}  // namespace tandem
