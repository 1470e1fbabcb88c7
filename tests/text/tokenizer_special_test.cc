#include <string>

#include "tests/support/catch.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

TEST_CASE("control tokens are recognised when asked for, user-defined ones always") {
  BytePairVocabulary vocabulary;
  const TokenId control = vocabulary.add("<c>", TokenType::kControl);
  const TokenId user = vocabulary.add("<u>", TokenType::kUserDefined);
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  CHECK(tokenizer.encode("<c><u>", false, true) == Ids{control, user});
  const Ids ids = tokenizer.encode("<c><u>", false, false);
  CHECK(ids.size() == 4);
  CHECK(ids.back() == user);
  CHECK(tokenizer.piece(control).empty());
  CHECK(tokenizer.piece(control, true) == "<c>");
  CHECK(tokenizer.piece(user) == "<u>");
}

TEST_CASE("of special tokens that start at one place the longest is taken") {
  BytePairVocabulary vocabulary;
  vocabulary.add("<a", TokenType::kControl);
  const TokenId longer = vocabulary.add("<ab>", TokenType::kControl);
  const TokenId shorter = vocabulary.add("<ab", TokenType::kControl);
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  CHECK(tokenizer.encode("<ab><ab", false, true) == Ids{longer, shorter});
}

TEST_CASE("a token to be recognised is at most 1024 bytes long") {
  for (const TokenType type : {TokenType::kControl, TokenType::kUserDefined, TokenType::kUnknown}) {
    BytePairVocabulary vocabulary;
    const TokenId longest = vocabulary.add(std::string(1024, ' '), type);
    CHECK(make_tokenizer(vocabulary.file()).encode(std::string(2048, ' '), false, true) ==
          Ids{longest, longest});
    vocabulary.add(std::string(1025, ' '), type);
    CHECK_THROWS_WITH(make_tokenizer(vocabulary.file()),
                      "test.gguf: tokenizer.ggml.tokens[257]: expected at most 1024 bytes in a "
                      "special or user-defined token, got 1025");
  }
  BytePairVocabulary ordinary;
  ordinary.add(std::string(5000, 'a'));
  CHECK(make_tokenizer(ordinary.file()).n_vocab() == 257);
}

TEST_CASE("a merge cannot lead to a control token") {
  BytePairVocabulary vocabulary;
  const TokenId ab = vocabulary.merge("a", "b");
  vocabulary.types[static_cast<size_t>(ab)] = static_cast<int32_t>(TokenType::kControl);
  CHECK(make_tokenizer(vocabulary.file()).encode("ab", false, false).size() == 2);
  CHECK(make_tokenizer(vocabulary.file("llama-bpe")).encode("ab", false, false).size() == 2);
}

TEST_CASE("byte-pair files add BOS when they say so, and llama-bpe ones unless they deny it") {
  BytePairVocabulary vocabulary;
  const auto bos = static_cast<uint32_t>(vocabulary.add("<s>", TokenType::kControl));
  const auto file = [&](const char* pre) {
    GgufBuilder builder = vocabulary.file(pre);
    builder.add_u32("tokenizer.ggml.bos_token_id", bos);
    return builder;
  };
  CHECK_FALSE(make_tokenizer(file("qwen2")).adds_bos());
  CHECK(make_tokenizer(file("llama-bpe")).adds_bos());
  CHECK_FALSE(make_tokenizer(vocabulary.file("llama-bpe")).adds_bos());  // has none to add
  CHECK(make_tokenizer(file("qwen2").add_bool("tokenizer.ggml.add_bos_token", true)).adds_bos());
  const Tokenizer denied =
      make_tokenizer(file("llama-bpe").add_bool("tokenizer.ggml.add_bos_token", false));
  CHECK_FALSE(denied.adds_bos());
  CHECK(denied.encode("", true, true).empty());
}

TEST_CASE("an answer ends at EOS, at the file's EOT and at tokens of well-known names") {
  BytePairVocabulary vocabulary;
  const TokenId eos = vocabulary.add("stop", TokenType::kControl);
  const TokenId eot = vocabulary.add("turn", TokenType::kControl);
  const TokenId named = vocabulary.add("<|eot_id|>");
  const TokenId other = vocabulary.add("<|start|>", TokenType::kControl);
  GgufBuilder builder = vocabulary.file();
  builder.add_u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(eos));
  builder.add_u32("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(eot));
  const Tokenizer tokenizer = make_tokenizer(builder);
  CHECK(tokenizer.is_end_of_generation(eos));
  CHECK(tokenizer.is_end_of_generation(eot));
  CHECK(tokenizer.is_end_of_generation(named));
  CHECK_FALSE(tokenizer.is_end_of_generation(other));
  CHECK_FALSE(tokenizer.is_end_of_generation(-1));
  CHECK_FALSE(tokenizer.is_end_of_generation(tokenizer.n_vocab()));
  CHECK(tokenizer.type(named) == TokenType::kControl);  // whatever the file says
}

TEST_CASE("<|end|> ends an answer unless the vocabulary has <|return|> and <|call|>") {
  BytePairVocabulary vocabulary;
  const TokenId end = vocabulary.add("<|end|>", TokenType::kControl);
  CHECK(make_tokenizer(vocabulary.file()).is_end_of_generation(end));
  vocabulary.add("<|return|>", TokenType::kControl);
  vocabulary.add("<|call|>", TokenType::kControl);
  CHECK_FALSE(make_tokenizer(vocabulary.file()).is_end_of_generation(end));
}

TEST_CASE("in Phi-3 files a special token takes the spaces behind it") {
  SentencePieceVocabulary vocabulary;
  vocabulary.add("\xE2\x96\x81", -1);
  const TokenId user = vocabulary.add("<|user|>", 0, TokenType::kControl);
  const TokenId word = vocabulary.add("\xE2\x96\x81hi", -1);
  vocabulary.add("\xE2\x96\x81h", -2);
  vocabulary.add("h", -3);
  vocabulary.add("i", -3);
  GgufBuilder builder = vocabulary.file();
  builder.add("general.name", "Phi-3.5 MoE instruct");
  CHECK(make_tokenizer(builder).encode("<|user|> \n hi", false, true) == Ids{user, word});
  CHECK(make_tokenizer(vocabulary.file()).encode("<|user|>\nhi", false, true).size() > 2);
}

TEST_CASE("ids outside the vocabulary have no text") {
  const Tokenizer tokenizer = make_tokenizer(BytePairVocabulary().file());
  for (const TokenId id : {-1, 256, INT32_MAX, INT32_MIN}) {
    CHECK(tokenizer.piece(id, true).empty());
    CHECK(tokenizer.text(id).empty());
    CHECK(tokenizer.type(id) == TokenType::kUndefined);
  }
  CHECK(tokenizer.decode(Ids{-1, 32, 256}) == tokenizer.piece(32));
}

}  // namespace
}  // namespace tandem::test
