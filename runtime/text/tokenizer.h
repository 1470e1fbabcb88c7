// Text to token ids and back, for the vocabularies that GGUF files carry: byte-level BPE
// (tokenizer.ggml.model "gpt2") and SentencePiece-style ("llama").
// Immutable after construction; any thread may call it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class GgufFile;

using TokenId = int32_t;

// Values of tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct TokenizerOptions {
  // An unknown tokenizer.ggml.pre is an error unless this is set; then gpt-2's pattern is used.
  bool allow_unknown_pretokenizer = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*. FileError when something is missing, inconsistent or unsupported.
  static Tokenizer from_gguf(const GgufFile& file, const TokenizerOptions& options = {});

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // add_special: put BOS in front (and EOS behind) where the file's rules say so.
  // parse_special: the text of control tokens ("<|im_start|>") becomes those tokens; otherwise it
  // is ordinary text. User-defined tokens are always recognised.
  std::vector<TokenId> encode(std::string_view text, bool add_special, bool parse_special) const;

  // The bytes of one token. Control tokens give nothing unless `render_special`.
  std::string piece(TokenId id, bool render_special = false) const;
  // The bytes of a sequence; SentencePiece's leading space is taken away again where encoding
  // added it. May end in the middle of a UTF-8 character when ids do.
  std::string decode(std::span<const TokenId> ids, bool render_special = false) const;

  int32_t n_vocab() const;
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool adds_bos() const;
  bool adds_eos() const;
  // EOS, EOT (tokenizer.ggml.eot_token_id, or <|im_end|>, <|eot_id|>, <end_of_turn>, … by name).
  bool is_end_of_generation(TokenId id) const;
  TokenType type(TokenId id) const;
  std::string_view text(TokenId id) const;                   // as stored in the file
  std::optional<TokenId> find(std::string_view text) const;  // by stored text
  std::string_view model() const;                            // "gpt2" or "llama"
  std::string_view pretokenizer() const;                     // requested name; "" for "llama"

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
