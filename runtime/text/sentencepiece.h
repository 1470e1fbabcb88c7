// SentencePiece's byte-pair models: of all neighbours whose union is a piece, the one with the
// highest score is merged first; characters that stay without a piece become byte tokens
// (Kudo & Richardson 2018). No normalisation beyond U+2581 for spaces.
// Holds a reference to the vocabulary; immutable after construction, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/vocabulary.h"

namespace tandem {

class SentencePieceEncoder {
 public:
  explicit SentencePieceEncoder(const Vocabulary& vocabulary);  // must outlive the object

  // Appends the ids of `text` with `space_prefix` in front of it. Where byte tokens are missing a
  // run of unknown characters becomes one unknown token, where there is one.
  void encode(std::string_view text, bool space_prefix, std::optional<TokenId> unknown,
              std::vector<TokenId>& ids) const;

 private:
  struct Work;

  std::optional<TokenId> find_piece(std::string_view text) const;
  void push_pair(Work& work, size_t left) const;
  void merge_all(Work& work) const;

  const Vocabulary& vocabulary_;
  size_t longest_piece_ = 0;  // bytes
  std::array<std::optional<TokenId>, 256> byte_tokens_;
};

// U+2581 and the space, for each other.
std::string escape_spaces(std::string_view text);
std::string unescape_spaces(std::string_view text);

}  // namespace tandem
