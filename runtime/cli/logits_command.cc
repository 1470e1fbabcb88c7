// tandem logits: f32 logits of every position as a NumPy file.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/progress.h"
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
  std::string header = fmt::format(
      "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, cols);
  const size_t unpadded = 10 + header.size() + 1;
  header += std::string((64 - unpadded % 64) % 64, ' ') + "\n";
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

void logits(const LogitsOptions& options) {
  Progress progress;
  progress.show("loading");
  const Model model = options.model.load_model();
  const int64_t vocab = model.config().n_vocab;
  const std::vector<int32_t> ids = parse_token_list(options.tokens, vocab);
  if (ids.empty()) throw ConfigError("--tokens is empty");
  EngineSettings settings = options.model.engine_settings();
  settings.max_logits = settings.n_batch;
  Engine engine(model, options.model.machine(), settings);
  std::vector<float> all;
  const auto batch = static_cast<size_t>(engine.n_batch());
  for (size_t at = 0; at < ids.size(); at += batch) {
    progress.show_count("tokens", static_cast<int64_t>(at), static_cast<int64_t>(ids.size()));
    const size_t n = std::min(batch, ids.size() - at);
    const auto rows = engine.eval(std::span(ids).subspan(at, n), static_cast<int64_t>(n));
    all.insert(all.end(), rows.begin(), rows.end());
  }
  write_file(options.out, npy(all, static_cast<int64_t>(ids.size()), vocab));
  progress.clear();
  if (options.json) {
    print_out(fmt::format("{{\"tokens\": {}, \"vocab\": {}}}\n", ids.size(), vocab));
  }
}

}  // namespace

void add_logits_command(CLI::App* program) {
  const auto options = std::make_shared<LogitsOptions>();
  CLI::App* app =
      program->add_subcommand("logits", "Write the logits of every position to a .npy file");
  app->footer("Example:\n  tandem logits -m model.gguf --tokens 1,2,3 --out logits.npy\n"
              "The file holds f32 [tokens, vocabulary].");
  options->model.add_model(app);
  app->add_option("--tokens", options->tokens, "token ids, separated by commas")->required();
  app->add_option("--out", options->out, "the .npy file")->required();
  app->add_flag("--json", options->json, "print the shape as JSON");
  options->model.add_engine(app);
  app->callback([app, options] {
    options->model.apply_config(app);
    logits(*options);
  });
}

}  // namespace tandem
