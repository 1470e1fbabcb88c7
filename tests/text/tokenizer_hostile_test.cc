#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/file_error.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

std::string build_error(const GgufBuilder& builder) {
  return error_of([&] { make_tokenizer(builder); });
}

void check_error(const GgufBuilder& builder, const std::vector<std::string>& parts) {
  const std::string message = build_error(builder);
  CAPTURE(message);
  CHECK(message.rfind("test.gguf: ", 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
  for (const std::string& part : parts) CHECK(message.find(part) != std::string::npos);
}

GgufBuilder model(const char* name) {
  GgufBuilder builder;
  builder.add("tokenizer.ggml.model", name);
  return builder;
}

TEST_CASE("a tokenizer model that is not supported is named beside those that are") {
  check_error(model("bert"), {"tokenizer.ggml.model", "\"gpt2\"", "\"llama\"", "\"bert\""});
  check_error(GgufBuilder(), {"tokenizer.ggml.model"});
}

TEST_CASE("an unknown pre-tokenizer is an error unless it is allowed, then gpt-2's is used") {
  BytePairVocabulary vocabulary;
  check_error(vocabulary.file("klingon"), {"tokenizer.ggml.pre", "klingon", "gpt-2", "qwen2"});
  const TokenId digits = vocabulary.merge("1", "2");
  const Tokenizer tokenizer =
      make_tokenizer(vocabulary.file("klingon"), {.allow_unknown_pretokenizer = true});
  CHECK(tokenizer.encode("12", false, false) == Ids{digits});
  CHECK(tokenizer.pretokenizer() == "klingon");
}

TEST_CASE("a hostile text in a vocabulary makes a message of one short line") {
  const std::string hostile = "\n\x1b[31m\"" + std::string(60000, 'x');
  BytePairVocabulary merges;
  merges.merges = {hostile};
  for (const GgufBuilder& builder :
       {model(hostile.c_str()), BytePairVocabulary().file(hostile), merges.file()}) {
    check_error(builder, {"got \"\\x0a\\x1b[31m\\\"xxx"});
    CHECK(build_error(builder).size() < 1000);  // the known pre-tokenizers take most of it
  }
}

TEST_CASE("a vocabulary without tokens is an error") {
  check_error(model("llama"), {"tokenizer.ggml.tokens"});
  check_error(model("llama").add_strings("tokenizer.ggml.tokens", {}), {"tokenizer.ggml.tokens"});
  check_error(model("llama").add("tokenizer.ggml.tokens", "a"), {"tokenizer.ggml.tokens"});
}

TEST_CASE("scores and types of another number than the tokens are errors") {
  const auto file = [] { return model("llama").add_strings("tokenizer.ggml.tokens", {"a", "b"}); };
  check_error(file().add_array("tokenizer.ggml.scores", std::vector<float>{1}),
              {"tokenizer.ggml.scores", "2", "1"});
  check_error(file().add_array("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1}),
              {"tokenizer.ggml.token_type", "2", "3"});
}

TEST_CASE("a special token id outside the vocabulary is an error that names its key") {
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"}) {
    check_error(BytePairVocabulary().file().add_u32(key, 256), {key, "256"});
    check_error(BytePairVocabulary().file().add_u32(key, UINT32_MAX), {key});
  }
}

TEST_CASE("a file that adds BOS or EOS and names none is an error") {
  check_error(BytePairVocabulary().file().add_bool("tokenizer.ggml.add_bos_token", true),
              {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"});
  check_error(BytePairVocabulary().file().add_bool("tokenizer.ggml.add_eos_token", true),
              {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token"});
}

TEST_CASE("a merge that is not two parts is an error that names its index") {
  for (const char* merge : {"", "ab", "ab ", " ", " a"}) {
    BytePairVocabulary vocabulary;
    vocabulary.merges = {"a b", merge};
    check_error(vocabulary.file(), {"tokenizer.ggml.merges[1]"});
  }
  GgufBuilder without = model("gpt2").add("tokenizer.ggml.pre", "gpt-2");
  without.add_strings("tokenizer.ggml.tokens", {"a"});
  check_error(without, {"tokenizer.ggml.merges"});
}

TEST_CASE("odd vocabularies tokenize without a crash") {
  BytePairVocabulary byte_pair;
  byte_pair.merges = {"zz zz", "a b", "a b", "ab ab", "\xFF \xFF"};
  for (const char* text : {"", "a", "a", "\xFF\xFF", "<0xZZ>", "<0x4>"}) byte_pair.add(text);
  byte_pair.add("", TokenType::kControl);
  byte_pair.add("<0xZZ>", TokenType::kByte);
  byte_pair.types[3] = 77;
  const Tokenizer first = make_tokenizer(byte_pair.file());
  CHECK(first.decode(first.encode("abab zz \xFF", false, true)) == "abab zz \xFF");

  SentencePieceVocabulary pieces;
  pieces.add("", 1);
  pieces.add("\xE2\x96\x81", -1);
  pieces.add("aa", std::numeric_limits<float>::quiet_NaN());
  pieces.add("ab", std::numeric_limits<float>::infinity());
  pieces.add("ba", -std::numeric_limits<float>::infinity());
  const Tokenizer second = make_tokenizer(pieces.file());
  CHECK(second.decode(second.encode("aabbaab", false, true)) == "aabbaab");
}

}  // namespace
}  // namespace tandem::test
