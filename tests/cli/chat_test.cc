#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Outcome chat(std::string lines, std::vector<std::string> more = {"--chat-template", "chatml"}) {
  more.insert(more.begin(), {"chat", "-n", "5", "--temp", "0"});
  Invocation how;
  how.in = std::move(lines);
  return tandem(more, how);
}

// A GGUF metadata entry of type string.
std::string text_entry(const std::string& key, const std::string& value) {
  const auto length = [](const std::string& text) {
    const uint64_t n = text.size();
    return std::string(reinterpret_cast<const char*>(&n), sizeof n);
  };
  return length(key) + key + std::string("\x08\0\0\0", 4) + length(value) + value;
}

// The demo model with two more entries in front: the template, and one that fills up to the
// alignment, because the data starts at the next multiple of 32.
std::string demo_model_with_template(const std::string& jinja) {
  constexpr size_t kCountAt = 16;
  constexpr size_t kEntriesAt = 24;
  std::string image = read_file(source_file("demo/hearthside-q8_0.gguf"));
  uint64_t entries = 0;
  std::memcpy(&entries, image.data() + kCountAt, sizeof entries);
  entries += 2;
  std::memcpy(image.data() + kCountAt, &entries, sizeof entries);
  const std::string added = text_entry("tokenizer.chat_template", jinja);
  const size_t unfilled = added.size() + text_entry("fill", "").size();
  return image.insert(kEntriesAt,
                      added + text_entry("fill", std::string((32 - unfilled % 32) % 32, 'x')));
}

}  // namespace

TEST_CASE("chat answers each line with one of its own") {
  const Outcome run = chat("hello\nhow are you\n", {"--chat-template", "chatml", "--json"});
  INFO(run.err);
  CHECK(run.exit_code == 0);
  REQUIRE(line_count(run.out) == 2);
  const size_t end = run.out.find('\n');
  for (const std::string& line : {run.out.substr(0, end), run.out.substr(end + 1)}) {
    const auto json = nlohmann::json::parse(line);
    CHECK(json["text"].is_string());
    CHECK(json["tokens"].get<int>() <= 5);
    CHECK(json["prompt_tokens"].get<int>() > 0);
  }
}

TEST_CASE("chat says the same to the same conversation, and says with which settings") {
  const Outcome first = chat("hello\nand then\n");
  CHECK(first.exit_code == 0);
  CHECK(first.out == chat("hello\nand then\n").out);
  CHECK(contains(first.err, "device        cpu (requested auto)"));
}

TEST_CASE("/clear forgets the conversation") {
  const std::string once = chat("hello\n").out;
  CHECK(chat("hello\n/clear\nhello\n").out == once + once);
}

TEST_CASE("/clear forgets what the repetition penalty looks back on") {
  const std::vector<std::string> penalty{"--chat-template", "chatml", "--repeat-penalty", "10"};
  const std::string once = chat("hello\n", penalty).out;
  CHECK(chat("hello\n/clear\nhello\n", penalty).out == once + once);
}

TEST_CASE("Ctrl-C ends a conversation that is read from a pipe") {
  constexpr size_t kTurns = 1000;
  Invocation how;
  how.in = "";
  for (size_t i = 0; i < kTurns; ++i) *how.in += "hello\n/clear\n";
  how.interrupts = 1;
  const Outcome run = tandem({"chat", "--chat-template", "chatml", "-n", "5", "--json"}, how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  CHECK(line_count(run.out) < kTurns);
}

TEST_CASE("/exit ends the conversation, and so does the end of input") {
  CHECK(chat("/exit\nhello\n").out.empty());
  CHECK(chat("").exit_code == 0);
}

TEST_CASE("a model without a chat template is told from one whose template is unknown") {
  const Outcome none = chat("hi\n", {});
  CHECK(none.exit_code == 2);
  CHECK(none.out.empty());
  CHECK(contains(none.err, "has no chat template; choose one with --chat-template"));

  const TempDir dir;
  write_file(dir / "odd.gguf", demo_model_with_template("{% unheard of %}"));
  const Outcome odd = chat("hi\n", {"-m", dir / "odd.gguf"});
  INFO(odd.err);
  CHECK(odd.exit_code == 2);
  CHECK(odd.out.empty());
  CHECK(line_count(odd.err) == 1);
  CHECK(contains(odd.err, "odd.gguf: "));
  CHECK(contains(odd.err, "supported families (chatml, "));
  CHECK(contains(odd.err, "choose one with --chat-template"));
}

TEST_CASE("a conversation that outgrows the context is one line with both lengths") {
  const Outcome run = chat("hello there my friend\n", {"--chat-template", "chatml", "-c", "8"});
  CHECK(run.exit_code == 2);
  CHECK(contains(run.err, "the conversation is "));
  CHECK(contains(run.err, "the context 8"));
}

}  // namespace tandem::test
