// tandem tokenize and tandem detokenize: ids as one JSON array.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/cli/token_list.h"
#include "runtime/error.h"
#include "runtime/text/escapes.h"

namespace tandem {
namespace {

struct TokenizeOptions {
  ModelOptions model;
  std::string text;
  std::string file;
  std::string ids;
  bool no_bos = false;
  bool no_special = false;
  bool keep_escapes = false;
  bool json = false;
  CLI::Option* text_given = nullptr;
  CLI::Option* ids_given = nullptr;
};

std::string input(const TokenizeOptions& options) {
  if (options.text_given->count() > 0) {
    return options.keep_escapes ? options.text : process_escapes(options.text);
  }
  if (!options.file.empty()) return read_text(options.file);
  if (isatty(STDIN_FILENO) == 0) return read_text("-");
  throw ConfigError("no text: give -p TEXT, -f FILE, or text on standard input");
}

void tokenize(const TokenizeOptions& options) {
  const GgufFile file = options.model.open_model();
  const Tokenizer tokenizer = options.model.load_tokenizer(file);
  const std::vector<TokenId> ids =
      tokenizer.encode(input(options), !options.no_bos, !options.no_special);
  print_out(nlohmann::json(ids).dump() + "\n");
}

void detokenize(const TokenizeOptions& options) {
  const GgufFile file = options.model.open_model();
  const Tokenizer tokenizer = options.model.load_tokenizer(file);
  const std::string list = options.ids_given->count() > 0 ? options.ids : read_text("-");
  const std::vector<TokenId> ids = parse_token_list(list, tokenizer.n_vocab());
  const std::string text = tokenizer.decode(ids, !options.no_special);
  if (!options.json) {
    print_out(text);
    return;
  }
  print_out(json_text({{"text", text}}) + "\n");
}

}  // namespace

void add_tokenize_commands(CLI::App* program) {
  const auto to = std::make_shared<TokenizeOptions>();
  CLI::App* app = program->add_subcommand("tokenize", "Print a text's token ids as a JSON array");
  app->footer("Example:\n  tandem tokenize -m model.gguf -p \"Hello world\"");
  to->model.add_model(app);
  to->text_given = app->add_option("-p,--prompt", to->text, "the text")->type_name("TEXT");
  app->add_option("-f,--file", to->file, "file with the text (default: standard input)")
      ->type_name("FILE")
      ->check(not_empty())
      ->excludes(to->text_given);
  app->add_flag("--no-bos", to->no_bos, "leave out BOS and EOS");
  app->add_flag("--no-parse-special", to->no_special, "take the text of control tokens literally");
  app->add_flag("--no-escape", to->keep_escapes, "take \\n and the like in -p as they stand");
  app->add_flag("--json", to->json, "the output is JSON anyway");
  app->callback([app, to] {
    to->model.apply_config(app);
    tokenize(*to);
  });

  const auto from = std::make_shared<TokenizeOptions>();
  app = program->add_subcommand("detokenize", "Print the text of token ids");
  app->footer("Example:\n  tandem detokenize -m model.gguf --tokens \"[3384,794,258,535]\"");
  from->model.add_model(app);
  from->ids_given =
      app->add_option("--tokens", from->ids,
                      "ids, with commas, in brackets or not (default: standard input)")
          ->type_name("IDS");
  app->add_flag("--no-special", from->no_special, "leave out control tokens");
  app->add_flag("--json", from->json, "print {\"text\": …}");
  app->callback([app, from] {
    from->model.apply_config(app);
    detokenize(*from);
  });
}

}  // namespace tandem
