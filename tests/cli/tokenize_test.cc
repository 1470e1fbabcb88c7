#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Outcome with_input(std::vector<std::string> arguments, std::string text) {
  Invocation how;
  how.in = std::move(text);
  return tandem(arguments, how);
}

}  // namespace

TEST_CASE("tokenize prints the ids of the reference as one JSON array") {
  const auto golden = nlohmann::json::parse(read_file(source_file("demo/golden.json")));
  const Outcome run = tandem({"tokenize", "-p", "Once upon a time"});
  CHECK(run.exit_code == 0);
  CHECK(run.err.empty());
  CHECK(line_count(run.out) == 1);
  CHECK(run.json() == golden["Q8_0"]["prompt_ids"]);
}

TEST_CASE("tokenize gives the same ids from -p, from a file and from standard input") {
  const TempDir dir;
  const std::string text = "A tale of two\nfoxes.";
  write_file(dir / "t.txt", text);
  const std::string ids = tandem({"tokenize", "-p", text}).out;
  CHECK(tandem({"tokenize", "-f", dir / "t.txt"}).out == ids);
  CHECK(with_input({"tokenize"}, text).out == ids);
}

TEST_CASE("detokenize gives back what tokenize took, byte by byte") {
  const std::vector<std::string> texts{"Once upon a time",
                                       "  two  spaces\n\n\ttab \r\n",
                                       "naïve café – 日本語 🦊 e\u0301",
                                       std::string("nul \0 inside", 12),
                                       "\xff\xc3(\xe2\x82 broken UTF-8",
                                       "",
                                       "\\n stays \\x41",
                                       read_file(source_file("demo/heldout.txt"))};
  for (const std::string& text : texts) {
    const Outcome ids = with_input({"tokenize", "--no-bos"}, text);
    REQUIRE(ids.exit_code == 0);
    const Outcome back = with_input({"detokenize"}, ids.out);
    REQUIRE(back.exit_code == 0);
    CHECK(back.out == text);
  }
}

TEST_CASE("detokenize shows control tokens unless told not to") {
  CHECK(tandem({"detokenize", "--tokens", "[4093, 3384]"}).out == "<|endoftext|>Once");
  CHECK(tandem({"detokenize", "--tokens", "4093,3384", "--no-special"}).out == "Once");
  CHECK(tandem({"detokenize", "--tokens", "3384", "--json"}).json()["text"] == "Once");
  CHECK(tandem({"detokenize", "--tokens", ""}).out.empty());
}

TEST_CASE("tokenize reads control tokens in the text unless told not to") {
  const auto ids = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"tokenize", "--no-bos", "-p", "<|endoftext|>"});
    return tandem(more).json();
  };
  CHECK(ids({}) == nlohmann::json({4093}));
  CHECK(ids({"--no-parse-special"}).size() > 1);
}

TEST_CASE("detokenize refuses what is no id of the vocabulary") {
  for (const std::string word : {"4096", "-1", "x", "1.5", "99999999999999999999"}) {
    const Outcome run = tandem({"detokenize", "--tokens", "1," + word});
    INFO(run.err);
    CHECK(run.exit_code == 2);
    CHECK(run.out.empty());
    CHECK(run.err == "tandem: token \"" + word + "\" is not an id from 0 to 4095\n");
  }
}

}  // namespace tandem::test
