// Vocabularies for the tests of runtime/text: the fixtures, and small ones made by hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/model/gguf_file.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/tokenizer.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {

using Json = nlohmann::json;
using Ids = std::vector<TokenId>;

inline Json read_fixture(const std::string& name) {
  const std::string path = std::string(TANDEM_SOURCE_DIR "/tests/fixtures/text/") + name;
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path);
  return Json::parse(in);
}

// The tokenizer owns what it needs: the image is gone when it is used.
inline Tokenizer make_tokenizer(const GgufBuilder& builder, const TokenizerOptions& options = {}) {
  const Bytes image = builder.build();
  return Tokenizer::from_gguf(GgufFile::from_memory(image, "test.gguf"), options);
}

// A byte-level vocabulary in the making: 256 bytes, then what is added.
struct BytePairVocabulary {
  std::vector<std::string> tokens{byte_alphabet().begin(), byte_alphabet().end()};
  std::vector<std::string> merges;
  std::vector<int32_t> types = std::vector<int32_t>(256, 1);

  TokenId add(const std::string& text, TokenType type = TokenType::kNormal) {
    tokens.push_back(text);
    types.push_back(static_cast<int32_t>(type));
    return static_cast<TokenId>(tokens.size() - 1);
  }
  // The merge of two tokens, and the token that it makes.
  TokenId merge(const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    return add(left + right);
  }
  GgufBuilder file(const std::string& pre = "gpt-2") const {
    GgufBuilder builder;
    builder.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", pre);
    builder.add_strings("tokenizer.ggml.tokens", tokens);
    builder.add_array("tokenizer.ggml.token_type", types);
    builder.add_strings("tokenizer.ggml.merges", merges);
    return builder;
  }
};

inline constexpr char kHex[] = "0123456789ABCDEF";

// <unk>, <s>, </s>, the 256 bytes, then what is added.
struct SentencePieceVocabulary {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<float> scores{0, 0, 0};
  std::vector<int32_t> types{2, 3, 3};

  explicit SentencePieceVocabulary(bool with_bytes = true) {
    for (int byte = 0; with_bytes && byte < 256; ++byte) {
      add(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", 0, TokenType::kByte);
    }
  }
  TokenId add(const std::string& text, float score, TokenType type = TokenType::kNormal) {
    tokens.push_back(text);
    scores.push_back(score);
    types.push_back(static_cast<int32_t>(type));
    return static_cast<TokenId>(tokens.size() - 1);
  }
  GgufBuilder file() const {
    GgufBuilder builder;
    builder.add("tokenizer.ggml.model", "llama");
    builder.add_strings("tokenizer.ggml.tokens", tokens);
    builder.add_array("tokenizer.ggml.scores", scores);
    builder.add_array("tokenizer.ggml.token_type", types);
    return builder;
  }
};

}  // namespace tandem::test
