#include "runtime/text/chat_template.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"
#include "tests/support/catch.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

// chat.json: make_chat_fixtures.py says how jinja2 made it.
std::vector<ChatMessage> to_messages(const Json& json) {
  std::vector<ChatMessage> messages;
  for (const Json& message : json) messages.push_back({message["role"], message["content"]});
  return messages;
}

std::optional<std::string> try_render(ChatFamily family, const Json& chat, const std::string& eos) {
  try {
    return render_chat(family, to_messages(chat["messages"]), chat["add_assistant"], eos);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

TEST_CASE("prompts are what jinja2 makes of the families' templates") {
  const Json fixture = read_fixture("chat.json");
  for (const Json& family : fixture["families"]) {
    const ChatFamily id = chat_family_by_name(family["name"].get<std::string>());
    for (const Json& chat : family["cases"]) {
      CAPTURE(family["name"], chat.dump());
      const auto expected = chat["expected"].is_null()
                                ? std::nullopt
                                : std::optional(chat["expected"].get<std::string>());
      CHECK(try_render(id, chat, family["eos"]) == expected);
    }
  }
}

TEST_CASE("each family is recognised by its template, and the fixture has them all") {
  const Json fixture = read_fixture("chat.json");
  CHECK(fixture["families"].size() == chat_family_names().size());
  for (const Json& family : fixture["families"]) {
    CAPTURE(family["name"]);
    CHECK(chat_family_from_template(family["template"].get<std::string>()) ==
          chat_family_by_name(family["name"].get<std::string>()));
  }
}

TEST_CASE("a template of no supported family is an error that lists them") {
  const Json fixture = read_fixture("chat.json");
  for (const Json& jinja : fixture["unsupported"]) {
    CAPTURE(jinja);
    CHECK_THROWS_AS(chat_family_from_template(jinja.get<std::string>()), ConfigError);
  }
  CHECK_THROWS_WITH(chat_family_from_template("x"), contains("chatml") && contains("olmo"));
  CHECK_THROWS_WITH(chat_family_by_name("chatlm"), contains("chatlm") && contains("chatml"));
}

TEST_CASE("a role that no template has is an error that says which message has it") {
  const std::vector<ChatMessage> messages{{"user", "x"}, {"tool", "y"}};
  for (const std::string_view name : chat_family_names()) {
    CHECK_THROWS_WITH(render_chat(chat_family_by_name(name), messages, true),
                      contains("message 1") && contains("tool"));
  }
}

TEST_CASE("two user messages in a row are refused by the families whose templates refuse them") {
  const std::vector<ChatMessage> messages{{"user", "x"}, {"user", "y"}};
  CHECK_THROWS_AS(render_chat(ChatFamily::kGemma, messages, true), ConfigError);
  CHECK_THROWS_AS(render_chat(ChatFamily::kMistral, messages, true), ConfigError);
  CHECK(render_chat(ChatFamily::kChatMl, messages, false) ==
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>user\ny<|im_end|>\n");
}

TEST_CASE("a system message is refused by the family that has none, with the way out") {
  const std::vector<ChatMessage> messages{{"system", "be brief"}, {"user", "x"}};
  CHECK_THROWS_WITH(render_chat(ChatFamily::kMistralV0, messages, true),
                    contains("mistral-v0") && contains("in front of the first user's"));
}

TEST_CASE("a reasoning model is shown its earlier answers without their reasoning") {
  const std::vector<ChatMessage> messages{
      {"user", "x"}, {"assistant", "<think>\nhm\n</think>\n\nyes"}, {"user", "y"}};
  CHECK(render_chat(ChatFamily::kQwen3, messages, false) ==
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>user\ny<|im_end|>\n");
}

TEST_CASE("no messages are an empty conversation") {
  CHECK(render_chat(ChatFamily::kChatMl, {}, true) == "<|im_start|>assistant\n");
  CHECK(render_chat(ChatFamily::kLlama2, {}, true).empty());
}

}  // namespace
}  // namespace tandem::test
