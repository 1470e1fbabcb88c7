// What the file says of its special tokens: which begin and end a text, which end an answer, and
// where they stand in a text. Owned by the Tokenizer; immutable after construction, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/text/vocabulary.h"

namespace tandem {

class GgufFile;

struct SpecialRoles {
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::optional<TokenId> unknown;
  bool adds_bos = false;
  bool adds_eos = false;
  std::vector<bool> ends_generation;  // [n_vocab]
};

struct SpecialDefaults {  // where the file says nothing
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::optional<TokenId> unknown;
  bool adds_bos = false;
};

// FileError: an id outside the vocabulary, or BOS or EOS to be added and not named. Tokens that
// end an answer by their well-known names become control tokens of `vocabulary`.
SpecialRoles read_special_roles(const GgufFile& file, const SpecialDefaults& defaults,
                                Vocabulary& vocabulary);

// A token that was recognised, or the ordinary text between two of them.
struct Fragment {
  std::optional<TokenId> token;
  std::string_view text;
};

// Finds tokens by their text: leftmost first, of several that start there the longest.
class SpecialMatcher {
 public:
  // `vocabulary` must outlive the object. The model's name decides whether spaces after a special
  // token belong to it, as they do in the Phi-3 family. FileError for a token to be recognised that
  // is longer than kMaxBytes: a text that almost holds it everywhere is compared with it at each of
  // its bytes, so that the bound keeps split() linear in the text.
  static constexpr size_t kMaxBytes = 1024;
  SpecialMatcher(const GgufFile& file, const Vocabulary& vocabulary);

  // User-defined tokens, and with `parse_special` control and unknown tokens as well.
  std::vector<Fragment> split(std::string_view text, bool parse_special) const;

 private:
  // Tokens in order of their texts, and for each first byte its range of them.
  struct Table {
    std::vector<TokenId> ids;
    std::array<std::pair<size_t, size_t>, 256> ranges{};
  };

  Table make_table(const GgufFile& file, bool with_special) const;
  std::optional<TokenId> longest_at(const Table& table, std::string_view text) const;
  bool takes_spaces_behind(TokenId id) const;

  const Vocabulary& vocabulary_;
  bool strips_right_ = false;
  Table always_;
  Table with_special_;
};

}  // namespace tandem
