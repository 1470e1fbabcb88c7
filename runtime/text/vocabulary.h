// The token table of a GGUF file (tokenizer.ggml.tokens, .scores, .token_type), checked and copied
// out of the file. Owned by the Tokenizer; immutable after construction, so any thread may read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tandem {

class GgufFile;

class Vocabulary {
 public:
  // FileError: no tokens, more than an id can number, or arrays of different lengths.
  explicit Vocabulary(const GgufFile& file);
  // by_text_ points into texts_.
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  bool contains(TokenId id) const { return id >= 0 && id < size(); }
  std::string_view text(TokenId id) const { return texts_[static_cast<size_t>(id)]; }
  TokenType type(TokenId id) const { return types_[static_cast<size_t>(id)]; }
  double score(TokenId id) const { return scores_[static_cast<size_t>(id)]; }
  // Control and unknown tokens: never ordinary text, and printed only when asked for.
  bool is_special(TokenId id) const {
    return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
  }
  // Of several tokens with one text the lowest id; empty texts are never found.
  std::optional<TokenId> find(std::string_view text) const;
  // The token of type kByte for `byte`, whose text is "<0xXX>".
  std::optional<TokenId> find_byte(uint8_t byte) const;

  // While the tokenizer is being built: a token that is known by its name to be a control token.
  void make_control(TokenId id) { types_[static_cast<size_t>(id)] = TokenType::kControl; }

 private:
  std::vector<std::string> texts_;  // [n_vocab], as are the next two
  std::vector<TokenType> types_;
  std::vector<double> scores_;  // never NaN
  std::unordered_map<std::string_view, TokenId> by_text_;
};

// The byte that "<0xXX>" writes; nullopt for any other text.
std::optional<uint8_t> parse_byte_token(std::string_view text);

}  // namespace tandem
