// Cuts text into the words that byte-pair merging stays within: the patterns that
// tokenizer.ggml.pre names, applied one after the other, each to the parts that the one before
// left. Immutable after construction; any thread may split.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/regex_splitter.h"

namespace tandem {

class Pretokenizer {
 public:
  // nullopt for a name that is not known.
  static std::optional<Pretokenizer> by_name(std::string_view name);
  static std::string known_names();  // for messages: "gpt-2, llama-bpe, …"

  // What vocabularies with this pre-tokenizer do besides.
  bool ignores_merges() const { return ignores_merges_; }  // a word in the vocabulary is one token
  bool adds_bos() const { return adds_bos_; }              // unless the file says otherwise

  // The words of `text` in order; none is empty and together they are `text`. Where it is not
  // valid UTF-8 the patterns see only what lies between, and each ill-formed part is a word.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  Pretokenizer() = default;
  std::vector<RegexSplitter> stages_;
  bool ignores_merges_ = false;
  bool adds_bos_ = false;
};

}  // namespace tandem
