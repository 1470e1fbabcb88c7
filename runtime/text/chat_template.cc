#include "runtime/text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "runtime/error.h"

namespace tandem {
namespace {

struct Named {
  std::string_view name;
  ChatFamily family;
};

constexpr Named kNamed[] = {
    {"chatml", ChatFamily::kChatMl},
    {"qwen3", ChatFamily::kQwen3},
    {"llama2", ChatFamily::kLlama2},
    {"llama3", ChatFamily::kLlama3},
    {"mistral-v0", ChatFamily::kMistralV0},
    {"mistral-v1", ChatFamily::kMistral},
    {"mistral-v3", ChatFamily::kMistralV3},
    {"zephyr", ChatFamily::kZephyr},
    {"deepseek2", ChatFamily::kDeepSeek},
    {"deepseek3", ChatFamily::kDeepSeek3},
    {"command-r", ChatFamily::kCommandR},
    {"gemma", ChatFamily::kGemma},
    {"phi3", ChatFamily::kPhi3},
    {"olmo", ChatFamily::kOlmo},
};

std::string joined_names() {
  std::string names;
  for (const Named& named : kNamed) {
    if (!names.empty()) names += ", ";
    names += named.name;
  }
  return names;
}

class Template {
 public:
  explicit Template(std::string_view jinja) : jinja_(jinja) {}
  bool has(std::string_view part) const { return jinja_.find(part) != std::string_view::npos; }
  // Whether the {{ … }} that writes `part` for the first time also writes an end of text.
  bool ends_text_after(std::string_view part) const {
    const size_t from = jinja_.find(part);
    if (from == std::string_view::npos) return false;
    const std::string_view rest = jinja_.substr(from);
    const Template output(rest.substr(0, std::min(rest.find("}}"), rest.size())));
    return output.has("eos_token") || output.has("<|endoftext|>") || output.has("</s>");
  }

 private:
  std::string_view jinja_;
};

// Llama 2's brackets, which Mistral's families share.
std::optional<ChatFamily> bracket_family(const Template& jinja) {
  if (jinja.has("<<SYS>>")) return ChatFamily::kLlama2;
  if (jinja.has("[SYSTEM_PROMPT]") || jinja.has("\"[INST]\"")) return std::nullopt;  // v7, tekken
  if (jinja.has(" [INST]")) return ChatFamily::kMistral;
  if (jinja.has("[AVAILABLE_TOOLS]")) return ChatFamily::kMistralV3;
  if (jinja.has("'[INST] ' + message['content'] + ' [/INST]'")) return ChatFamily::kMistralV0;
  return std::nullopt;
}

// <|user|> and <|assistant|>, with different ends of a message.
std::optional<ChatFamily> role_token_family(const Template& jinja) {
  if (jinja.has("[gMASK]") || jinja.has("<|begin_of_image|>") || jinja.has("<|tool_declare|>")) {
    return std::nullopt;  // GLM, EXAONE
  }
  if (jinja.has("<|end|>")) return ChatFamily::kPhi3;
  if (jinja.ends_text_after("<|user|>")) return ChatFamily::kZephyr;
  if (jinja.has("eos_token")) return ChatFamily::kOlmo;
  return std::nullopt;
}

std::optional<ChatFamily> recognise(const Template& jinja) {
  if (jinja.has("<|im_start|>")) {
    const bool is_other =
        jinja.has("<|im_sep|>") || jinja.has("<end_of_utterance>");  // Phi-4, SmolVLM
    if (is_other) return std::nullopt;
    return jinja.has("split('</think>')") ? ChatFamily::kQwen3 : ChatFamily::kChatMl;
  }
  if (jinja.has("[INST]")) return bracket_family(jinja);
  if (jinja.has("<|assistant|>") && (jinja.has("<|user|>") || jinja.has("<|end|>"))) {
    return role_token_family(jinja);
  }
  if (jinja.has("<start_of_turn>")) return ChatFamily::kGemma;
  if (jinja.has("<|START_OF_TURN_TOKEN|>") && jinja.has("<|USER_TOKEN|>")) {
    return ChatFamily::kCommandR;
  }
  if (jinja.has("<|start_header_id|>") && jinja.has("<|end_header_id|>")) {
    return ChatFamily::kLlama3;
  }
  if (jinja.has("<｜User｜>") && jinja.has("<｜Assistant｜>")) return ChatFamily::kDeepSeek3;
  if (jinja.has("'User: '") && jinja.has("'Assistant: ' + message['content'] + eos_token")) {
    return ChatFamily::kDeepSeek;
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string_view> chat_family_names() {
  std::vector<std::string_view> names;
  for (const Named& named : kNamed) names.push_back(named.name);
  return names;
}

ChatFamily chat_family_by_name(std::string_view name) {
  for (const Named& named : kNamed) {
    if (named.name == name) return named.family;
  }
  throw ConfigError(
      fmt::format("chat template: expected one of {}; got \"{}\"", joined_names(), name));
}

ChatFamily chat_family_from_template(std::string_view jinja) {
  if (const auto family = recognise(Template(jinja))) return *family;
  throw ConfigError(fmt::format(
      "tokenizer.chat_template: expected a template of one of the supported families ({}), got "
      "{} bytes that look like none of them",
      joined_names(), jinja.size()));
}

}  // namespace tandem
