#include "runtime/text/vocabulary.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "runtime/error.h"
#include "runtime/model/gguf_file.h"

namespace tandem {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";

void check_length(const GgufFile& file, std::string_view key, size_t got, size_t expected) {
  if (got == expected) return;
  throw FileError(file.name(), fmt::format("{}: expected {} entries, one for each of {}, got {}",
                                           key, expected, kTokensKey, got));
}

TokenType to_token_type(int64_t value) {
  const bool known = value >= static_cast<int64_t>(TokenType::kNormal) &&
                     value <= static_cast<int64_t>(TokenType::kByte);
  return known ? static_cast<TokenType>(value) : TokenType::kUndefined;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

Vocabulary::Vocabulary(const GgufFile& file) {
  const std::vector<std::string_view>* texts = file.get_string_array(kTokensKey);
  if (texts == nullptr || texts->empty()) {
    throw FileError(file.name(), fmt::format("{}: expected the vocabulary, got {}", kTokensKey,
                                             texts == nullptr ? "no such key" : "an empty array"));
  }
  if (texts->size() > static_cast<size_t>(std::numeric_limits<TokenId>::max())) {
    throw FileError(file.name(), fmt::format("{}: expected at most {} entries, got {}", kTokensKey,
                                             std::numeric_limits<TokenId>::max(), texts->size()));
  }
  texts_.assign(texts->begin(), texts->end());

  scores_.assign(texts_.size(), 0.0);
  if (const auto scores = file.get_float_array(kScoresKey)) {
    check_length(file, kScoresKey, scores->size(), texts_.size());
    for (size_t i = 0; i < texts_.size(); ++i) {
      const double score = (*scores)[i];
      scores_[i] = std::isnan(score) ? std::numeric_limits<double>::lowest() : score;
    }
  }
  types_.assign(texts_.size(), TokenType::kNormal);
  if (const auto types = file.get_int_array(kTypesKey)) {
    check_length(file, kTypesKey, types->size(), texts_.size());
    for (size_t i = 0; i < texts_.size(); ++i) types_[i] = to_token_type((*types)[i]);
  }

  by_text_.reserve(texts_.size());
  for (TokenId id = 0; id < size(); ++id) {
    if (!text(id).empty()) by_text_.emplace(text(id), id);
  }
}

std::optional<TokenId> Vocabulary::find(std::string_view text) const {
  const auto it = by_text_.find(text);
  if (it == by_text_.end()) return std::nullopt;
  return it->second;
}

std::optional<TokenId> Vocabulary::find_byte(uint8_t byte) const {
  const std::optional<TokenId> id = find(fmt::format("<0x{:02X}>", byte));
  return id && type(*id) == TokenType::kByte ? id : std::nullopt;
}

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || !text.ends_with('>')) return std::nullopt;
  const int high = hex_digit(text[3]);
  const int low = hex_digit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

}  // namespace tandem
