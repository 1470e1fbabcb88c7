// Conversations as prompts, family by family. Each follows the official template of the model that
// is named; what the templates write as bos_token at the very start is left to the tokenizer.
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "runtime/error.h"
#include "runtime/text/ascii.h"
#include "runtime/text/chat_template.h"

namespace tandem {
namespace {

using Messages = std::span<const ChatMessage>;

constexpr std::string_view kReasoningEnd = "</think>";
constexpr std::string_view kDeepSeekEos = "<｜end▁of▁sentence｜>";

bool is_system(const ChatMessage& message) { return message.role == "system"; }
bool is_user(const ChatMessage& message) { return message.role == "user"; }
bool is_assistant(const ChatMessage& message) { return message.role == "assistant"; }

// Python's str.strip() for ASCII text.
std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kAsciiSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kAsciiSpaces) - begin + 1);
}

// An earlier answer without its reasoning, which reasoning models are not shown again.
std::string_view after_reasoning(std::string_view content) {
  const size_t end = content.rfind(kReasoningEnd);
  return end == std::string_view::npos ? content : content.substr(end + kReasoningEnd.size());
}

void check_roles(Messages messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (is_system(message) || is_user(message) || is_assistant(message)) continue;
    throw ConfigError(
        fmt::format("chat message {}: expected the role system, user or assistant, got \"{}\"", i,
                    message.role));
  }
}

// Takes the system message off the front. The others must then be user, assistant, user, …
const ChatMessage* take_system_and_check_turns(Messages& messages) {
  const ChatMessage* system = nullptr;
  if (!messages.empty() && is_system(messages[0])) {
    system = &messages[0];
    messages = messages.subspan(1);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view expected = i % 2 == 0 ? "user" : "assistant";
    if (messages[i].role == expected) continue;
    throw ConfigError(fmt::format(
        "chat message {}: expected the role {} (this family's turns alternate, after one system "
        "message at most), got \"{}\"",
        i + (system != nullptr ? 1 : 0), expected, messages[i].role));
  }
  return system;
}

[[noreturn]] void refuse_system(std::string_view family) {
  throw ConfigError(fmt::format(
      "chat message 0: expected no system message, which the template {} does not have; put its "
      "text in front of the first user's, or choose another template",
      family));
}

// ChatML and Qwen3. Qwen2's default system message is not added.
std::string render_chatml(ChatFamily family, Messages messages, bool add_assistant) {
  const bool hides_reasoning = family == ChatFamily::kQwen3;
  std::string out;
  for (const ChatMessage& message : messages) {
    std::string_view content = message.content;
    if (hides_reasoning && is_assistant(message) &&
        after_reasoning(content).size() != content.size()) {
      content = after_reasoning(content);
      content.remove_prefix(std::min(content.find_first_not_of('\n'), content.size()));
    }
    out += fmt::format("<|im_start|>{}\n{}<|im_end|>\n", message.role, content);
  }
  if (add_assistant) out += "<|im_start|>assistant\n";
  return out;
}

// Llama-2-chat.
std::string render_llama2(Messages messages, std::string_view eos) {
  const ChatMessage* system = take_system_and_check_turns(messages);
  std::string out;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    if (is_assistant(messages[i])) {
      out += fmt::format(" {} {}", trim(content), eos);
      continue;
    }
    const std::string with_system =
        i == 0 && system != nullptr
            ? fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n{}", system->content, content)
            : content;
    out += fmt::format("{}[INST] {} [/INST]", i == 0 ? "" : "<s>", trim(with_system));
  }
  return out;
}

// Mixtral-8x7B-Instruct, as it is now and as it was at first, and Mixtral-8x22B-Instruct.
std::string render_mistral(ChatFamily family, Messages messages, std::string_view eos) {
  const bool is_v3 = family == ChatFamily::kMistralV3;
  const std::string_view lead = family == ChatFamily::kMistral ? " " : "";
  const std::string_view close = is_v3 ? "" : " ";
  const std::string_view answer = family == ChatFamily::kMistralV0 ? "" : " ";
  const ChatMessage* system = take_system_and_check_turns(messages);
  if (system != nullptr && family == ChatFamily::kMistralV0) refuse_system("mistral-v0");
  std::string out;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view content = messages[i].content;
    if (is_assistant(messages[i])) {
      out += fmt::format("{}{}{}", answer, is_v3 ? trim(content) : content, eos);
      continue;
    }
    const bool takes_system = system != nullptr && i == (is_v3 ? messages.size() - 1 : 0);
    const std::string prefix = takes_system ? system->content + "\n\n" : "";
    out += fmt::format("{}[INST] {}{}{}[/INST]", lead, prefix, content, close);
  }
  return out;
}

// Meta-Llama-3-Instruct.
std::string render_llama3(Messages messages, bool add_assistant) {
  std::string out;
  for (const ChatMessage& message : messages) {
    out += fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", message.role,
                       trim(message.content));
  }
  if (add_assistant) out += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  return out;
}

// zephyr-7b-beta (eos "</s>") and stablelm-zephyr (eos "<|endoftext|>").
std::string render_zephyr(Messages messages, bool add_assistant, std::string_view eos) {
  std::string out;
  for (const ChatMessage& message : messages) {
    out += fmt::format("<|{}|>\n{}{}\n", message.role, message.content, eos);
  }
  if (add_assistant) out += "<|assistant|>\n";
  return out;
}

// DeepSeek-LLM, -MoE and -V2.
std::string render_deepseek(Messages messages, bool add_assistant, std::string_view eos) {
  std::string out;
  for (const ChatMessage& message : messages) {
    if (is_assistant(message)) {
      out += fmt::format("Assistant: {}{}", message.content, eos);
    } else {
      out += fmt::format("{}{}\n\n", is_user(message) ? "User: " : "", message.content);
    }
  }
  if (add_assistant) out += "Assistant:";
  return out;
}

// DeepSeek-V3 and -R1: the system messages first, wherever they stand.
std::string render_deepseek3(Messages messages, bool add_assistant) {
  std::string out;
  for (const ChatMessage& message : messages) {
    if (is_system(message)) out += (out.empty() ? "" : "\n\n") + message.content;
  }
  for (const ChatMessage& message : messages) {
    if (is_user(message)) out += fmt::format("<｜User｜>{}", message.content);
    if (is_assistant(message)) {
      out += fmt::format("<｜Assistant｜>{}{}", after_reasoning(message.content), kDeepSeekEos);
    }
  }
  if (add_assistant) out += "<｜Assistant｜>";
  return out;
}

// c4ai-command-r.
std::string render_command_r(Messages messages, bool add_assistant) {
  const ChatMessage* system = take_system_and_check_turns(messages);
  const auto turn = [](std::string_view role, std::string_view content) {
    return fmt::format("<|START_OF_TURN_TOKEN|><|{}_TOKEN|>{}<|END_OF_TURN_TOKEN|>", role, content);
  };
  std::string out;
  if (system != nullptr) out += turn("SYSTEM", system->content);
  for (const ChatMessage& message : messages) {
    out += turn(is_user(message) ? "USER" : "CHATBOT", trim(message.content));
  }
  if (add_assistant) out += "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>";
  return out;
}

// gemma-it. Gemma 3 puts a system message before the first user's; Gemma 1 and 2 have none.
std::string render_gemma(Messages messages, bool add_assistant) {
  const ChatMessage* system = take_system_and_check_turns(messages);
  std::string out;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string prefix = i == 0 && system != nullptr ? system->content + "\n\n" : "";
    out += fmt::format("<start_of_turn>{}\n{}{}<end_of_turn>\n",
                       is_user(messages[i]) ? "user" : "model", prefix, trim(messages[i].content));
  }
  if (add_assistant) out += "<start_of_turn>model\n";
  return out;
}

// Phi-3.5-mini and Phi-3.5-MoE: a system message without text is left out.
std::string render_phi3(Messages messages, bool add_assistant, std::string_view eos) {
  std::string out;
  for (const ChatMessage& message : messages) {
    if (is_system(message) && message.content.empty()) continue;
    out += fmt::format("<|{}|>\n{}<|end|>\n", message.role, message.content);
  }
  out += add_assistant ? "<|assistant|>\n" : eos;
  return out;
}

// OLMoE-Instruct and the Tulu models.
std::string render_olmo(Messages messages, bool add_assistant, std::string_view eos) {
  std::string out;
  for (const ChatMessage& message : messages) {
    out += fmt::format("<|{}|>\n{}{}\n", message.role, message.content,
                       is_assistant(message) ? eos : "");
  }
  if (add_assistant) out += "<|assistant|>\n";
  return out;
}

std::string_view usual_eos(ChatFamily family) {
  if (family == ChatFamily::kDeepSeek) return kDeepSeekEos;
  if (family == ChatFamily::kPhi3 || family == ChatFamily::kOlmo) return "<|endoftext|>";
  return "</s>";
}

}  // namespace

std::string render_chat(ChatFamily family, std::span<const ChatMessage> messages,
                        bool add_assistant, std::string_view eos_text) {
  check_roles(messages);
  const std::string_view eos = eos_text.empty() ? usual_eos(family) : eos_text;
  switch (family) {
    case ChatFamily::kChatMl:
    case ChatFamily::kQwen3:
      return render_chatml(family, messages, add_assistant);
    case ChatFamily::kLlama2:
      return render_llama2(messages, eos);
    case ChatFamily::kLlama3:
      return render_llama3(messages, add_assistant);
    case ChatFamily::kMistral:
    case ChatFamily::kMistralV0:
    case ChatFamily::kMistralV3:
      return render_mistral(family, messages, eos);
    case ChatFamily::kZephyr:
      return render_zephyr(messages, add_assistant, eos);
    case ChatFamily::kDeepSeek:
      return render_deepseek(messages, add_assistant, eos);
    case ChatFamily::kDeepSeek3:
      return render_deepseek3(messages, add_assistant);
    case ChatFamily::kCommandR:
      return render_command_r(messages, add_assistant);
    case ChatFamily::kGemma:
      return render_gemma(messages, add_assistant);
    case ChatFamily::kPhi3:
      return render_phi3(messages, add_assistant, eos);
    case ChatFamily::kOlmo:
      return render_olmo(messages, add_assistant, eos);
  }
  return {};
}

}  // namespace tandem
