// tandem chat: a conversation with the model's own chat template.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <span>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/sampling_options.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/engine/generate.h"
#include "runtime/error.h"
#include "runtime/text/chat_template.h"

namespace tandem {
namespace {

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system;
  std::string template_name;
  int64_t max_tokens = -1;
  bool json = false;
};

ChatFamily chat_family(const ChatOptions& options, const GgufFile& file) {
  if (!options.template_name.empty()) return chat_family_by_name(options.template_name);
  if (const auto jinja = file.get_string("tokenizer.chat_template")) {
    try {
      return chat_family_from_template(*jinja);
    } catch (const ConfigError& error) {
      throw ConfigError(
          fmt::format("{}: {}; choose one with --chat-template", file.name(), error.what()));
    }
  }
  throw ConfigError(
      fmt::format("{} has no chat template; choose one with --chat-template", file.name()));
}

class Conversation {
 public:
  Conversation(const ChatOptions& options, const Tokenizer& tokenizer, Engine& engine,
               ChatFamily family)
      : options_(options),
        tokenizer_(tokenizer),
        engine_(engine),
        family_(family),
        sampler_(options.sampling.settings(), engine.model().config().n_vocab, engine.n_ctx()) {
    clear();
  }

  void clear() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  // Answers one message of the user. A message that does not fit is taken back.
  GenerationResult answer(const std::string& text, const GenerationHooks& hooks) {
    messages_.push_back({"user", text});
    std::vector<TokenId> all;
    try {
      all = encode();
    } catch (const ConfigError&) {
      messages_.pop_back();
      throw;
    }
    // What the KV cache holds already is not read again; the last token always is.
    const size_t known = common_prefix(all);
    engine_.rewind(static_cast<int64_t>(known));
    cached_.assign(all.begin(), all.end());
    // The penalty looks back over this conversation, read again or not, and over no other.
    sampler_.forget();
    for (const TokenId id : std::span(all).first(known)) sampler_.accept(id);
    GenerationResult result =
        generate(engine_, tokenizer_, sampler_,
                 {std::span(all).subspan(known), options_.max_tokens, false}, hooks);
    if (result.prompt_tokens < static_cast<int64_t>(all.size() - known)) cached_.resize(known);
    cached_.insert(cached_.end(), result.tokens.begin(), result.tokens.end());
    cached_.resize(std::min(cached_.size(), static_cast<size_t>(engine_.position())));
    messages_.push_back({"assistant", tokenizer_.decode(result.tokens)});
    return result;
  }

 private:
  std::vector<TokenId> encode() const {
    const std::string eos = tokenizer_.eos() ? tokenizer_.piece(*tokenizer_.eos(), true) : "";
    std::vector<TokenId> all =
        tokenizer_.encode(render_chat(family_, messages_, true, eos), true, true);
    if (static_cast<int64_t>(all.size()) >= engine_.n_ctx()) {
      throw ConfigError(
          fmt::format("the conversation is {} tokens long, the context {}; /clear "
                      "starts a new one",
                      all.size(), engine_.n_ctx()));
    }
    return all;
  }
  size_t common_prefix(const std::vector<TokenId>& all) const {
    const size_t most = std::min(cached_.size(), all.size() - 1);
    size_t n = 0;
    while (n < most && cached_[n] == all[n]) ++n;
    return n;
  }

  const ChatOptions& options_;
  const Tokenizer& tokenizer_;
  Engine& engine_;
  ChatFamily family_;
  Sampler sampler_;
  std::vector<ChatMessage> messages_;
  std::vector<TokenId> cached_;  // the tokens in the KV cache
};

// One turn; the answer goes to standard output as it comes.
void turn(Conversation& conversation, const std::string& line, const InterruptGuard& guard,
          bool json) {
  Progress progress;
  std::string text;
  GenerationHooks hooks;
  hooks.interrupted = [&] { return guard.interrupted(); };
  hooks.on_prompt = [&](int64_t done, int64_t total) {
    progress.show_count("reading", done, total);
  };
  hooks.on_text = [&](std::string_view piece) {
    progress.clear();
    text += piece;
    if (!json && !piece.empty()) print_out(piece);
  };
  const GenerationResult result = conversation.answer(line, hooks);
  progress.clear();
  if (!json) {
    print_out("\n");
    return;
  }
  const nlohmann::ordered_json object{{"text", text},
                                      {"prompt_tokens", result.prompt_tokens},
                                      {"tokens", result.tokens.size()},
                                      {"stopped", stop_reason_text(result.stop)},
                                      {"prefill_tps", result.prefill_tps()},
                                      {"decode_tps", result.decode_tps()}};
  print_out(json_text(object) + "\n");
}

int chat(const ChatOptions& options) {
  Progress progress;
  const Model model = options.model.load_model(&progress);
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  const ChatFamily family = chat_family(options, model.file());
  const MachineProfile machine = options.model.machine();
  Engine engine(model, machine, options.model.engine_settings(&progress));
  Conversation conversation(options, tokenizer, engine, family);
  progress.clear();
  std::fputs(settings_text(options.model.effective(engine, machine)).c_str(), stderr);
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::fprintf(stderr, "%s. /clear starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer.\n",
                 printable(model.config().name).c_str());
  }
  InterruptGuard guard;
  std::string line;
  while (true) {
    if (terminal) std::fputs("\n> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line == "/exit") break;
    if (line == "/clear") {
      conversation.clear();
      continue;
    }
    if (line.empty()) continue;
    try {
      turn(conversation, line, guard, options.json);
    } catch (const ConfigError& error) {
      if (!terminal) throw;
      std::fprintf(stderr, "tandem: %s\n", printable(error.what()).c_str());
    }
    // Who types can go on after an answer that was stopped; a script wants to be over.
    if (!terminal && guard.interrupted()) break;
    guard.clear();
  }
  return guard.interrupted() ? kExitInterrupted : 0;
}

}  // namespace

void add_chat_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<ChatOptions>();
  CLI::App* app = program->add_subcommand("chat", "Talk with the model, line by line");
  std::string families;
  for (const std::string_view name : chat_family_names()) families += fmt::format(" {}", name);
  app->footer(
      "Example:\n  tandem chat -m model.gguf --system-prompt \"Be brief.\"\n"
      "Supported templates:" +
      families);
  options->model.add_model(app);
  app->add_option("--system-prompt", options->system, "what the model is told first, also -sys")
      ->type_name("TEXT");
  app->add_option("--chat-template", options->template_name,
                  "use this template instead of the file's")
      ->type_name("NAME")
      ->check(not_empty());
  app->add_option("-n,--predict,--n-predict", options->max_tokens,
                  "most tokens of an answer; -1: until it ends")
      ->type_name("N")
      ->check(whole_number(-1, int64_t{1} << 40))
      ->capture_default_str();
  options->model.add_engine(app);
  options->sampling.add_to(app);
  app->add_flag("--json", options->json, "print one JSON object a turn");
  app->callback([app, options, exit_code] {
    options->model.apply_config(app);
    *exit_code = chat(*options);
  });
}

}  // namespace tandem
