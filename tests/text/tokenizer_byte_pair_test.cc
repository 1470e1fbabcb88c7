#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

// byte_pair.json: make_tokenizer_fixtures.py says how Hugging Face's tokenizers made it.
BytePairVocabulary fixture_vocabulary(const Json& fixture) {
  BytePairVocabulary vocabulary;
  vocabulary.tokens = fixture["tokens"].get<std::vector<std::string>>();
  vocabulary.merges = fixture["merges"].get<std::vector<std::string>>();
  vocabulary.types.assign(vocabulary.tokens.size(), 1);
  return vocabulary;
}

Tokenizer hearthside() {
  return Tokenizer::from_gguf(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf"));
}

void check_ids(const Tokenizer& tokenizer, const Json& texts, const Json& ids) {
  REQUIRE(texts.size() == ids.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    CAPTURE(tokenizer.pretokenizer(), text);
    CHECK(tokenizer.encode(text, false, false) == ids[i].get<Ids>());
    CHECK(tokenizer.decode(ids[i].get<Ids>()) == text);
  }
}

TEST_CASE("byte-pair ids are those of Hugging Face tokenizers for every pre-tokenizer") {
  const Json fixture = read_fixture("byte_pair.json");
  const BytePairVocabulary vocabulary = fixture_vocabulary(fixture);
  for (const auto& [pre, ids] : fixture["ids"].items()) {
    check_ids(make_tokenizer(vocabulary.file(pre)), fixture["texts"], ids);
  }
}

TEST_CASE("pre-tokenizers of one pattern give the same ids under each of their names") {
  const Json fixture = read_fixture("byte_pair.json");
  const BytePairVocabulary vocabulary = fixture_vocabulary(fixture);
  const std::pair<const char*, const char*> aliases[] = {{"olmo", "gpt-2"},
                                                         {"mpt", "gpt-2"},
                                                         {"refact", "starcoder"},
                                                         {"command-r", "starcoder"},
                                                         {"llama3", "llama-bpe"},
                                                         {"smaug-bpe", "dbrx"},
                                                         {"deepseek-r1-qwen", "qwen2"},
                                                         {"llama4", "gpt-4o"}};
  for (const auto& [alias, name] : aliases) {
    check_ids(make_tokenizer(vocabulary.file(alias)), fixture["texts"], fixture["ids"][name]);
  }
}

TEST_CASE("special and user-defined tokens are found where Hugging Face tokenizers finds them") {
  const Json fixture = read_fixture("byte_pair.json");
  BytePairVocabulary vocabulary = fixture_vocabulary(fixture);
  for (const Json& text : fixture["special"]) vocabulary.add(text, TokenType::kControl);
  for (const Json& text : fixture["user_defined"]) vocabulary.add(text, TokenType::kUserDefined);
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file("qwen2"));
  for (size_t i = 0; i < fixture["special_texts"].size(); ++i) {
    const auto text = fixture["special_texts"][i].get<std::string>();
    const auto ids = fixture["special_ids"][i].get<Ids>();
    CAPTURE(text);
    CHECK(tokenizer.encode(text, false, true) == ids);
    CHECK(tokenizer.decode(ids, true) == text);
  }
}

TEST_CASE("the demo model's ids are those of its tokenizer.json") {
  const Json fixture = read_fixture("hearthside.json");
  check_ids(hearthside(), fixture["texts"], fixture["ids"]);
}

TEST_CASE("the demo model begins with <|endoftext|> and ends an answer at it or <|im_end|>") {
  const Tokenizer tokenizer = hearthside();
  CHECK(tokenizer.model() == "gpt2");
  CHECK(tokenizer.pretokenizer() == "qwen2");
  CHECK(tokenizer.n_vocab() == 4096);
  const TokenId end_of_text = tokenizer.find("<|endoftext|>").value();
  CHECK(tokenizer.encode("", true, false) == Ids{end_of_text});
  CHECK(tokenizer.bos() == end_of_text);
  CHECK(tokenizer.is_end_of_generation(end_of_text));
  CHECK(tokenizer.is_end_of_generation(tokenizer.find("<|im_end|>").value()));
  CHECK_FALSE(tokenizer.is_end_of_generation(tokenizer.find("<|im_start|>").value()));
}

TEST_CASE("any bytes come back from byte-pair ids") {
  const Tokenizer demo = hearthside();
  const Json fixture = read_fixture("byte_pair.json");
  const BytePairVocabulary vocabulary = fixture_vocabulary(fixture);
  std::mt19937 rng(20240517);
  for (const char* pre : {"gpt-2", "llama-bpe", "deepseek-llm", "gpt-4o", "falcon"}) {
    const Tokenizer tokenizer = make_tokenizer(vocabulary.file(pre));
    for (int round = 0; round < 300; ++round) {
      std::string bytes(rng() % 64, '\0');
      // Every other text is mostly ASCII, so that valid and ill-formed parts alternate.
      for (char& c : bytes)
        c = static_cast<char>(rng() % (round % 2 == 0 || rng() % 8 == 0 ? 256 : 128));
      CHECK(tokenizer.decode(tokenizer.encode(bytes, false, false)) == bytes);
      CHECK(demo.decode(demo.encode(bytes, false, false)) == bytes);
    }
  }
}

// A word's merges the slow way: again and again the lowest rank, leftmost first.
std::vector<std::string> merge_naively(const std::vector<std::string>& merges,
                                       std::vector<std::string> parts) {
  for (;;) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const std::string pair = parts[i] + " " + parts[i + 1];
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank] == pair) {
          best_rank = rank;
          best = i;
        }
      }
    }
    if (best_rank == merges.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST_CASE("merging with a heap gives what the definition of byte-pair encoding gives") {
  std::mt19937 rng(7);
  for (int round = 0; round < 200; ++round) {
    BytePairVocabulary vocabulary;
    std::vector<std::string> symbols{"a", "b", "c"};
    for (int i = 0; i < 12; ++i) {
      const std::string left = symbols[rng() % symbols.size()];
      const std::string right = symbols[rng() % symbols.size()];
      vocabulary.merge(left, right);
      symbols.push_back(left + right);
    }
    const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
    std::string word;
    std::vector<std::string> parts;
    for (int i = 0; i < 40; ++i) {
      parts.emplace_back(1, static_cast<char>('a' + rng() % 3));
      word += parts.back();
    }
    Ids expected;
    for (const std::string& part : merge_naively(vocabulary.merges, parts)) {
      expected.push_back(tokenizer.find(part).value());
    }
    CAPTURE(word);
    CHECK(tokenizer.encode(word, false, false) == expected);
  }
}

TEST_CASE("a megabyte that is one word is merged to its end") {
  BytePairVocabulary vocabulary;
  std::string part = "a";
  for (int doubling = 0; doubling < 10; ++doubling) {
    vocabulary.merge(part, part);
    part += part;
  }
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  const Ids ids = tokenizer.encode(std::string(1 << 20, 'a'), false, false);
  CHECK(ids == Ids(1 << 10, tokenizer.find(part).value()));
}

TEST_CASE("llama-bpe takes a word that is in the vocabulary whole, without merges to it") {
  BytePairVocabulary vocabulary;
  const TokenId whole = vocabulary.add("abc");
  CHECK(make_tokenizer(vocabulary.file("llama-bpe")).encode("abc", false, false) == Ids{whole});
  CHECK(make_tokenizer(vocabulary.file("qwen2")).encode("abc", false, false).size() == 3);
}

TEST_CASE("a merge whose result is no token is written as its bytes") {
  BytePairVocabulary vocabulary;
  vocabulary.merges = {"a b", "ab c"};
  const TokenId abcd = vocabulary.add("abcd");
  vocabulary.merges.push_back("abc d");
  const Tokenizer tokenizer = make_tokenizer(vocabulary.file());
  CHECK(tokenizer.encode("abcd", false, false) == Ids{abcd});
  CHECK(tokenizer.encode("abc", false, false) ==
        Ids{*tokenizer.find("a"), *tokenizer.find("b"), *tokenizer.find("c")});
}

TEST_CASE("a byte that no token has becomes the unknown token, or nothing") {
  GgufBuilder builder;
  builder.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
  builder.add_strings("tokenizer.ggml.tokens", {"a", "<unk>"});
  builder.add_array("tokenizer.ggml.token_type", std::vector<int32_t>{1, 2});
  builder.add_strings("tokenizer.ggml.merges", {});
  CHECK(make_tokenizer(builder).encode("abca", false, false) == Ids{0, 0});
  builder.add_u32("tokenizer.ggml.unknown_token_id", 1);
  CHECK(make_tokenizer(builder).encode("abca", false, false) == Ids{0, 1, 1, 0});
}

}  // namespace
}  // namespace tandem::test
