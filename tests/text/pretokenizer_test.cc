#include "runtime/text/pretokenizer.h"

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/catch.h"

namespace tandem {
namespace {

std::vector<std::string> split_names() {
  std::vector<std::string> names;
  const std::string all = Pretokenizer::known_names();
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find(", ", at), all.size());
    names.push_back(all.substr(at, end - at));
    at = end + 2;
  }
  return names;
}

std::vector<std::string> words(std::string_view pre, std::string_view text) {
  const auto pretokenizer = Pretokenizer::by_name(pre);
  REQUIRE(pretokenizer);
  std::vector<std::string> result;
  for (const std::string_view word : pretokenizer->split(text)) result.emplace_back(word);
  return result;
}

constexpr size_t kSize = 1 << 18;

using Words = std::vector<std::string>;

TEST_CASE("pre-tokenizers cut where their models' patterns do") {
  CHECK(words("gpt-2", "it's  12 a1!\n\nx") ==
        Words{"it", "'s", " ", " 12", " a", "1", "!", "\n", "\n", "x"});
  CHECK(words("llama-bpe", "IT'S 12345 x!\n\n y") ==
        Words{"IT", "'S", " ", "123", "45", " x", "!\n\n", " y"});
  CHECK(words("qwen2", "it's 123\n") == Words{"it", "'s", " ", "1", "2", "3", "\n"});
  CHECK(words("starcoder", " 12 ab") == Words{" ", "1", "2", " ab"});
  CHECK(words("deepseek-v3", "1234.x") == Words{"123", "4", ".x"});
}

TEST_CASE("the words of every pre-tokenizer together are the text") {
  const std::string texts[] = {"",
                               " ",
                               "a  b\t\n\r\n c'd 1234 \xE4\xB8\xAD\xE6\x96\x87!? ",
                               "\xFF",
                               "x\xE4\xB8y \x80\x80 \xF0\x9F",
                               std::string("\0a\0", 3)};
  for (const std::string& name : split_names()) {
    for (const std::string& text : texts) {
      std::string joined;
      for (const std::string& word : words(name, text)) {
        CHECK_FALSE(word.empty());
        joined += word;
      }
      CAPTURE(name, text);
      CHECK(joined == text);
    }
  }
}

TEST_CASE("an ill-formed byte is a word of its own") {
  CHECK(words("gpt-2",
              "ab\xFF"
              "cd") == Words{"ab", "\xFF", "cd"});
}

TEST_CASE("the names of pre-tokenizers differ") {
  const std::vector<std::string> names = split_names();
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  CHECK_FALSE(Pretokenizer::by_name("").has_value());
  CHECK_FALSE(Pretokenizer::by_name("GPT-2").has_value());
}

// Each of these made some published pattern or engine quadratic or overflow its stack. There is
// no clock in the test: quadratic time on this size would run into CTest's own limit.
TEST_CASE("a long text without a boundary is split by every pre-tokenizer") {
  std::string newline_spaces;
  while (newline_spaces.size() < kSize) newline_spaces += "\n ";
  std::string mixed;
  while (mixed.size() < kSize) mixed += "\xCC\x81";
  const std::string texts[] = {
      std::string(kSize, 'a'),
      std::string(kSize, 'A'),
      std::string(kSize, ' ') + "x",
      std::string(kSize, ' '),
      std::string(kSize, '\n') + "x",
      std::string(kSize, '1'),
      std::string(kSize, '!') + "x",
      std::string(kSize, '\''),
      newline_spaces,
      std::string(kSize, '\xFF'),
      mixed,
  };
  // One name of each pattern; the others share them.
  for (const char* name :
       {"gpt-2", "starcoder", "llama-bpe", "qwen2", "qwen35", "bailingmoe", "gpt-4o", "tekken",
        "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "default"}) {
    const auto pretokenizer = Pretokenizer::by_name(name);
    REQUIRE(pretokenizer);
    for (const std::string& text : texts) {
      size_t size = 0;
      for (const std::string_view word : pretokenizer->split(text)) size += word.size();
      CHECK(size == text.size());
    }
  }
}

}  // namespace
}  // namespace tandem
