#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

constexpr char kLetters[] = "ab  \n";
const std::string kSpaceMark = "\xE2\x96\x81";

// sentencepiece.json: make_tokenizer_fixtures.py says how Google's sentencepiece made it.
TEST_CASE("ids and texts are those of sentencepiece, with and without byte tokens") {
  const Json fixture = read_fixture("sentencepiece.json");
  REQUIRE(fixture.size() == 2);
  for (const Json& model : fixture) {
    SentencePieceVocabulary vocabulary(false);
    vocabulary.tokens = model["tokens"].get<std::vector<std::string>>();
    vocabulary.scores = model["scores"].get<std::vector<float>>();
    vocabulary.types = model["types"].get<std::vector<int32_t>>();
    const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
    for (size_t i = 0; i < model["texts"].size(); ++i) {
      const auto text = model["texts"][i].get<std::string>();
      const auto ids = model["ids"][i].get<Ids>();
      CAPTURE(text);
      CHECK(tokenizer.encode(text, false, false) == ids);
      if (model["byte_fallback"]) CHECK(tokenizer.decode(ids) == text);
    }
  }
}

TEST_CASE("a SentencePiece file adds BOS and a leading space unless it says otherwise") {
  SentencePieceVocabulary vocabulary;
  const TokenId space = vocabulary.add("\xE2\x96\x81", -1);
  const TokenId a = vocabulary.add("a", -2);
  CHECK(make_tokenizer(vocabulary.file()).encode("a", true, false) == Ids{1, space, a});

  GgufBuilder plain = vocabulary.file();
  plain.add_bool("tokenizer.ggml.add_bos_token", false);
  plain.add_bool("tokenizer.ggml.add_eos_token", true);
  plain.add_bool("tokenizer.ggml.add_space_prefix", false);
  CHECK(make_tokenizer(plain).encode("a", true, false) == Ids{a, 2});
  CHECK(make_tokenizer(plain).decode(Ids{space, a}) == " a");
}

TEST_CASE("text after a special token gets the leading space, and decoding takes it away") {
  SentencePieceVocabulary vocabulary;
  const TokenId space = vocabulary.add("\xE2\x96\x81", -1);
  const TokenId a = vocabulary.add("a", -2);
  const TokenId tool = vocabulary.add("<tool>", 0, TokenType::kUserDefined);
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  const Ids ids = tokenizer.encode("a<tool>a</s> a", false, true);
  CHECK(ids == Ids{space, a, tool, space, a, 2, space, space, a});
  CHECK(tokenizer.decode(ids, true) == "a<tool>a</s> a");
  CHECK(tokenizer.decode(ids, false) == "a<tool>a a");
}

TEST_CASE("the space behind an unknown character is kept") {
  SentencePieceVocabulary vocabulary(false);
  vocabulary.add(kSpaceMark, -2);
  const TokenId a = vocabulary.add("a", -3);
  const TokenId space_a = vocabulary.add(kSpaceMark + "a", -1);
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  const Ids ids = tokenizer.encode("a\xE2\x98\x83 a", false, false);
  CHECK(ids == Ids{space_a, 0, space_a});
  CHECK(tokenizer.decode(ids) == "a a");
  CHECK(tokenizer.decode(ids, true) == "a<unk> a");
  CHECK(tokenizer.encode("<unk>a", false, true) == Ids{0, a});
  CHECK(tokenizer.decode(tokenizer.encode("<unk> a", false, true), true) == "<unk> a");
}

TEST_CASE("text that spells a control or byte token does not become it") {
  SentencePieceVocabulary vocabulary;
  // Each merge towards "</s>" and "<0x41>" is there, so that only the last must be refused.
  for (const char* piece : {"<", "/", "s", ">", "</", "s>", "0x", "0x4", "0x41", "<0x41"}) {
    vocabulary.add(piece, -1);
  }
  GgufBuilder builder = vocabulary.file();
  builder.add_bool("tokenizer.ggml.add_space_prefix", false);
  const Tokenizer tokenizer = make_tokenizer(builder);
  const Ids ids = tokenizer.encode("</s>", false, false);
  CHECK(ids == Ids{*tokenizer.find("</"), *tokenizer.find("s>")});
  CHECK(tokenizer.encode("</s>", false, true) == Ids{2});
  REQUIRE(tokenizer.type(tokenizer.find("<0x41>").value()) == TokenType::kByte);
  CHECK(tokenizer.encode("<0x41>", false, false) ==
        Ids{*tokenizer.find("<0x41"), *tokenizer.find(">")});
}

TEST_CASE("any bytes come back from SentencePiece ids with byte tokens") {
  SentencePieceVocabulary vocabulary;
  for (const std::string& piece :
       {kSpaceMark, std::string("a"), std::string("b"), std::string("ab"), kSpaceMark + "a"}) {
    vocabulary.add(piece, -1);
  }
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  std::mt19937 rng(3);
  for (int round = 0; round < 500; ++round) {
    std::string bytes(rng() % 40, ' ');
    for (char& c : bytes) {
      c = rng() % 2 == 0 ? kLetters[rng() % 5] : static_cast<char>(rng() % 256);
    }
    CHECK(tokenizer.decode(tokenizer.encode(bytes, false, false)) == bytes);
  }
}

TEST_CASE("a megabyte without a space is merged by scores to its end") {
  SentencePieceVocabulary vocabulary;
  std::string part = "a";
  vocabulary.add(part, -100);
  for (int doubling = 0; doubling < 8; ++doubling) {
    part += part;
    vocabulary.add(part, static_cast<float>(-doubling));
  }
  GgufBuilder builder = vocabulary.file();
  builder.add_bool("tokenizer.ggml.add_space_prefix", false);
  const Tokenizer tokenizer = make_tokenizer(builder);
  const Ids ids = tokenizer.encode(std::string(1 << 20, 'a'), false, false);
  CHECK(ids == Ids(1 << 12, tokenizer.find(part).value()));
}

}  // namespace
}  // namespace tandem::test
