// Byte-level byte-pair encoding of one piece of ordinary text: the merges of the file, applied
// lowest rank first within each word of the pre-tokenizer (Sennrich et al. 2016; byte-level as in
// OpenAI's gpt-2). Holds a reference to the vocabulary; immutable after construction, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/text/pair_hash.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/vocabulary.h"

namespace tandem {

class GgufFile;

class BytePairEncoder {
 public:
  // `vocabulary` must outlive the object. FileError for a merge that is not "left right".
  BytePairEncoder(const GgufFile& file, const Vocabulary& vocabulary, Pretokenizer pretokenizer);

  // Appends the ids. A byte that no token has becomes the unknown token, where there is one.
  void encode(std::string_view text, std::optional<TokenId> unknown,
              std::vector<TokenId>& ids) const;

  const Pretokenizer& pretokenizer() const { return pretokenizer_; }

 private:
  // Symbols below the vocabulary's size are its tokens; the others only occur in merges.
  using Symbol = uint32_t;
  static constexpr Symbol kNone = UINT32_MAX;
  struct Merge {
    uint32_t rank;
    Symbol result;
  };
  struct Work;  // of one encode(): buffers that its words share

  Symbol symbol_of(std::string_view text);
  void add_merge(const GgufFile& file, std::string_view text, uint32_t rank);
  void encode_word(std::string_view word, std::optional<TokenId> unknown, Work& work,
                   std::vector<TokenId>& ids) const;
  void push_pair(Work& work, size_t left) const;
  void merge_all(Work& work) const;
  void emit(Symbol symbol, std::optional<TokenId> unknown, std::vector<TokenId>& ids) const;

  const Vocabulary& vocabulary_;
  Pretokenizer pretokenizer_;
  std::array<Symbol, 256> byte_symbols_{};
  PairMap<Merge> merges_;                                  // by left << 32 | right
  std::unordered_map<std::string, Symbol> extra_by_text_;  // symbols that are no tokens
  std::vector<std::string> extra_texts_;                   // [symbol - n_vocab]
};

}  // namespace tandem
