// Text from the command line: escapes and lists of tokens.
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/cli/token_list.h"
#include "runtime/error.h"
#include "runtime/text/escapes.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using namespace std::string_literals;
using Ids = std::vector<int32_t>;

TEST_CASE("each escape becomes its character") {
  CHECK(process_escapes(R"(a\nb\rc\td)") == "a\nb\rc\td");
  CHECK(process_escapes(R"(\'\"\\)") == "'\"\\");
  CHECK(process_escapes(R"(\x41\x7a\xFF\xff)") == "Az\xFF\xFF");
}

TEST_CASE("a hex escape may be the zero byte and takes two digits only") {
  CHECK(process_escapes(R"(\x00)") == "\0"s);
  CHECK(process_escapes(R"(\x414)") == "A4");
}

TEST_CASE("an escaped backslash does not escape what follows") {
  CHECK(process_escapes(R"(\\n)") == R"(\n)");
  CHECK(process_escapes(R"(\\\n)") == "\\\n");
}

TEST_CASE("what is no escape stays as it stands") {
  for (const auto* text :
       {"", "plain", R"(\)", R"(end\)", R"(\q)", R"(\x)", R"(\x4)", R"(\xg1)", R"(\x1g)", R"(\x-1)",
        R"(\x+1)", R"(\x 1)", R"(\X41)", R"(\0)", "\xC3\xA9"}) {
    CHECK(process_escapes(text) == text);
  }
}

TEST_CASE("an escape may follow a backslash that escapes nothing") {
  CHECK(process_escapes(R"(\q\n)") == "\\q\n");
  CHECK(process_escapes(R"(\x\n)") == "\\x\n");
}

TEST_CASE("a token list may have commas, spaces or brackets") {
  for (const auto* text : {"1,2,30", "[1, 2, 30]", "1 2 30", " 1,\n2,\t30 ", "[1,2,30,]"}) {
    CHECK(parse_token_list(text, 31) == Ids{1, 2, 30});
  }
}

TEST_CASE("an empty token list has no tokens") {
  for (const auto* text : {"", "[]", " , "}) CHECK(parse_token_list(text, 31).empty());
}

TEST_CASE("the first and the last id of the vocabulary are tokens") {
  CHECK(parse_token_list("0,31999", 32000) == Ids{0, 31999});
}

TEST_CASE("what is no id of the vocabulary is an error that quotes it") {
  for (const auto* word :
       {"32000", "-1", "x", "1.5", "1e3", "0x10", "+1", "1-2", "1;2", "99999999999999999999"}) {
    try {
      parse_token_list("5," + std::string(word) + ",6", 32000);
      FAIL("accepted " << word);
    } catch (const ConfigError& error) {
      CHECK(std::string(error.what()).find('"' + std::string(word) + '"') != std::string::npos);
      CHECK(std::string(error.what()).find("0 to 31999") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace tandem::test
