// One pre-tokenizer pattern: cuts text into its matches and what lies between them.
// Owns a compiled PCRE2 pattern; immutable after construction, any thread may split.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

namespace tandem {

class RegexSplitter {
 public:
  // `pattern` is one of ours, in PCRE2's syntax; that it does not compile is a bug of ours. `\s`
  // and `\S` mean Unicode's White_Space, as in the tokenizers that the patterns come from.
  explicit RegexSplitter(std::string_view pattern);
  RegexSplitter(RegexSplitter&&) noexcept;
  RegexSplitter& operator=(RegexSplitter&&) noexcept;
  ~RegexSplitter();

  // Appends the parts of `text`, which is valid UTF-8, in order; none is empty and together they
  // are `text`. Error when PCRE2 gives up (its match limits), which no text is known to cause.
  void split(std::string_view text, std::vector<std::string_view>& parts) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
