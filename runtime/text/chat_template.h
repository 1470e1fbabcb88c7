// Chat templates of the common families, recognised in tokenizer.chat_template (Jinja) by what
// they contain, or chosen by name. Rendering is ours; no Jinja is interpreted.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

enum class ChatFamily {
  kChatMl,
  kQwen3,  // ChatML whose earlier answers are shown without their reasoning
  kLlama2,
  kLlama3,
  kMistral,    // "v1": " [INST] … [/INST] ", as Mixtral-8x7B-Instruct has it now
  kMistralV0,  // "[INST] … [/INST]", as Mixtral-8x7B-Instruct had it at first; no system message
  kMistralV3,  // "[INST] …[/INST] ", as Mixtral-8x22B-Instruct has it
  kZephyr,
  kDeepSeek,  // "User: …\n\nAssistant:" of DeepSeek-LLM/MoE/V2
  kDeepSeek3,
  kCommandR,
  kGemma,
  kPhi3,
  kOlmo,  // <|user|>\n…\n<|assistant|>\n of OLMoE/Tulu
};

// Names for --chat-template, as llama.cpp spells them ("chatml", "llama2", …).
std::vector<std::string_view> chat_family_names();
// ConfigError naming the known ones when `name` is none of them.
ChatFamily chat_family_by_name(std::string_view name);
// From the Jinja source in the file. ConfigError that says so when it is not supported.
ChatFamily chat_family_from_template(std::string_view jinja);

// The prompt for the whole conversation; with add_assistant it ends where the answer begins.
// The result is encoded with parse_special = true. BOS is left to the tokenizer.
// `eos_text` stands where the family's template writes eos_token: the text of the file's EOS, or
// when empty the one that the family's first model has. ConfigError for an unknown role and for
// messages in an order that the family's template refuses.
std::string render_chat(ChatFamily family, std::span<const ChatMessage> messages,
                        bool add_assistant, std::string_view eos_text = {});

}  // namespace tandem
