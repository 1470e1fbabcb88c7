// Where run takes its prompt from, and prompts that nobody expects.
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Outcome run_with_input(std::string text, std::vector<std::string> more = {}) {
  std::vector<std::string> args{"run", "--temp", "0", "-n", "3"};
  args.insert(args.end(), more.begin(), more.end());
  Invocation how;
  how.in = std::move(text);
  return tandem(args, how);
}

// Deterministic bytes of every value, none of them meant as text.
std::string garbage(size_t size) {
  std::string bytes;
  uint32_t state = 1;
  while (bytes.size() < size) {
    state = state * 1664525U + 1013904223U;
    bytes += static_cast<char>(state >> 24);
  }
  return bytes;
}

}  // namespace

TEST_CASE("run takes the prompt from -p, from a file and from standard input alike") {
  const TempDir dir;
  write_file(dir / "prompt.txt", "Once upon a time\n");
  const std::string expected = "Once upon a time there lived a\n";
  CHECK(tandem({"run", "--temp", "0", "-n", "3", "-p", "Once upon a time"}).out == expected);
  CHECK(tandem({"run", "--temp", "0", "-n", "3", "-f", dir / "prompt.txt"}).out == expected);
  CHECK(tandem({"run", "--temp", "0", "-n", "3", "-f", "-"}, {}).exit_code == 0);
  CHECK(run_with_input("Once upon a time\n").out == expected);
  CHECK(run_with_input("Once upon a time").out == expected);
}

TEST_CASE("run without any input tells the demo story") {
  Invocation closed;
  closed.no_stdin = true;
  const std::vector<std::string> args{"run", "--temp", "0", "-n", "3"};
  CHECK(tandem(args).out == "Once upon a time there lived a\n");
  CHECK(tandem(args, closed).out == "Once upon a time there lived a\n");
}

TEST_CASE("run of a model without any prompt says where one can come from") {
  const Outcome run = tandem({"run", "-m", family_model("qwen3moe-f32")});
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(run.err == "tandem: no prompt: give -p TEXT, -f FILE, or text on standard input\n");
}

TEST_CASE("an empty -p begins with BOS, and is refused where there is none") {
  const Outcome demo = tandem({"run", "-p", "", "-n", "3", "--temp", "0", "--json"});
  CHECK(demo.exit_code == 0);
  CHECK(demo.json()["prompt_tokens"] == 1);
  const Outcome other = tandem({"run", "-p", "", "-m", family_model("qwen3moe-f32")});
  CHECK(other.exit_code == 2);
  CHECK(contains(other.err, "the prompt is empty"));
}

TEST_CASE("run -p understands escapes unless told not to") {
  CHECK(tandem({"run", "-p", "a\\nb", "-n", "0"}).out == "a\nb\n");
  CHECK(tandem({"run", "-p", "a\\nb", "-n", "0", "--no-escape"}).out == "a\\nb\n");
}

TEST_CASE("run takes a prompt that looks like a flag, a list or nothing at all") {
  for (const std::string prompt :
       {"--json", "-n", "-np", "-st", "-hf", "-ctk", "[x,y]", "{}", "- item", "%s", "\"quoted\""}) {
    INFO(prompt);
    CHECK(tandem({"run", "-p", prompt, "-n", "0"}).out == prompt + "\n");
  }
}

TEST_CASE("a prompt of broken UTF-8 runs, and is shown in whole characters") {
  const Outcome run = run_with_input("\xff\xfe caf\xc3\xa9 \xe2\x82");
  CHECK(run.exit_code == 0);
  CHECK(is_utf8(run.out));
  CHECK(contains(run.out, "café"));
}

TEST_CASE("a prompt of binary garbage runs") {
  const Outcome run = run_with_input(garbage(4000), {"-c", "5000"});
  INFO(run.err);
  CHECK(run.exit_code == 0);
  CHECK(is_utf8(run.out));
}

TEST_CASE("a prompt that is longer than the context is refused with both lengths") {
  const Outcome run = tandem({"run", "-p", "Once upon a time", "-c", "4"});
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(run.err == "tandem: the prompt is 5 tokens long, the context 4; raise -c\n");
}

TEST_CASE("a prompt that just fills the context is continued by one token") {
  const auto json =
      tandem({"run", "-p", "Once upon a time", "-c", "5", "--temp", "0", "--json"}).json();
  CHECK(json["tokens"] == 1);
  CHECK(json["stopped"] == "context full");
}

TEST_CASE("standard input that cannot be read is one line") {
  Invocation how;
  how.in_path = TempDir().path().parent_path();
  for (const std::vector<std::string>& more : {std::vector<std::string>{"run"},
                                               {"run", "-f", "-"},
                                               {"perplexity", "-f", "-"},
                                               {"tokenize"}}) {
    const Outcome run = tandem(more, how);
    CHECK(run.exit_code == 1);
    CHECK(run.out.empty());
    CHECK(run.err == "tandem: standard input: cannot be read: Is a directory\n");
  }
}

TEST_CASE("a prompt file that cannot be read is one line with its name") {
  const TempDir dir;
  for (const std::string& path : {dir / "missing.txt", dir.path().string()}) {
    const Outcome run = tandem({"run", "-f", path});
    INFO(run.err);
    CHECK(run.exit_code == 1);
    CHECK(run.out.empty());
    CHECK(line_count(run.err) == 1);
    CHECK(contains(run.err, "tandem: " + path + ": cannot be read"));
  }
}

}  // namespace tandem::test
