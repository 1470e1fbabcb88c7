// tandem logits: f32 logits of every position as a NumPy file.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/cli/token_list.h"
#include "runtime/error.h"

namespace tandem {
namespace {

struct LogitsOptions {
  ModelOptions model;
  std::string tokens;
  std::string out;
  bool json = false;
};

// NumPy's format 1.0: magic, version, header length, a Python dict, data.
// Source: numpy.lib.format in NumPy's documentation.
std::string npy(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, cols);
  const size_t unpadded = 10 + header.size() + 1;
  header += std::string((64 - unpadded % 64) % 64, ' ') + "\n";
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

// [ids, vocabulary], in row order.
std::vector<float> all_logits(Engine& engine, std::span<const int32_t> ids, Progress* progress) {
  if (static_cast<int64_t>(ids.size()) > engine.n_ctx()) {
    throw ConfigError(fmt::format("--tokens has {} ids, the context is {}; raise -c", ids.size(),
                                  engine.n_ctx()));
  }
  std::vector<float> all;
  const auto batch = static_cast<size_t>(engine.n_batch());
  for (size_t at = 0; at < ids.size(); at += batch) {
    progress->show_count("tokens", static_cast<int64_t>(at), static_cast<int64_t>(ids.size()));
    const size_t n = std::min(batch, ids.size() - at);
    const auto rows = engine.eval(ids.subspan(at, n), static_cast<int64_t>(n));
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

void logits(const LogitsOptions& options) {
  check_writable(options.out);
  Progress progress;
  const Model model = options.model.load_model(&progress);
  const int64_t vocab = model.config().n_vocab;
  const std::vector<int32_t> ids = parse_token_list(options.tokens, vocab);
  if (ids.empty()) throw ConfigError("--tokens is empty");
  EngineSettings settings = options.model.engine_settings(&progress);
  settings.max_logits = std::min(settings.n_batch, static_cast<int64_t>(ids.size()));
  const MachineProfile machine = options.model.machine();
  Engine engine(model, machine, settings);
  const std::vector<float> all = all_logits(engine, ids, &progress);
  write_file(options.out, npy(all, static_cast<int64_t>(ids.size()), vocab));
  progress.clear();
  const std::vector<EffectiveSetting> effective = options.model.effective(engine, machine);
  if (options.json) {
    print_out(json_text({{"tokens", ids.size()},
                         {"vocab", vocab},
                         {"file", options.out},
                         {"settings", settings_json(effective)}},
                        2) +
              "\n");
  } else {
    std::fprintf(stderr, "%s  wrote         %s: f32 [%zu, %lld]\n",
                 settings_text(effective).c_str(), printable(options.out).c_str(), ids.size(),
                 static_cast<long long>(vocab));
  }
}

}  // namespace

void add_logits_command(CLI::App* program) {
  const auto options = std::make_shared<LogitsOptions>();
  CLI::App* app =
      program->add_subcommand("logits", "Write the logits of every position to a .npy file");
  app->footer(
      "Example:\n  tandem logits -m model.gguf --tokens 1,2,3 --out logits.npy\n"
      "The file holds f32 [tokens, vocabulary].");
  options->model.add_model(app);
  const CLI::Option* tokens =
      app->add_option("--tokens", options->tokens, "token ids, separated by commas (required)")
          ->type_name("IDS");
  const CLI::Option* out = app->add_option("--out", options->out, "the .npy file (required)")
                               ->type_name("FILE")
                               ->check(not_empty());
  app->add_flag("--json", options->json, "print shape and settings as JSON");
  options->model.add_engine(app);
  app->callback([app, options, tokens, out] {
    options->model.apply_config(app);
    need(tokens);
    need(out);
    logits(*options);
  });
}

}  // namespace tandem
