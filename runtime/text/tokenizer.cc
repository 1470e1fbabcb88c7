#include "runtime/text/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/gguf_file.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/byte_pair.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/sentencepiece.h"
#include "runtime/text/special_tokens.h"
#include "runtime/text/vocabulary.h"

namespace tandem {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kPreKey = "tokenizer.ggml.pre";
constexpr std::string_view kSpacePrefixKey = "tokenizer.ggml.add_space_prefix";
constexpr std::string_view kBytePairModel = "gpt2";
constexpr std::string_view kSentencePieceModel = "llama";

std::string read_model(const GgufFile& file) {
  const std::string_view model = file.need_string(kModelKey);
  if (model != kBytePairModel && model != kSentencePieceModel) {
    throw FileError(file.name(), fmt::format("{}: expected \"{}\" or \"{}\", got {}", kModelKey,
                                             kBytePairModel, kSentencePieceModel, quoted(model)));
  }
  return std::string(model);
}

// A file without the key is from before there was one; those were made for "default".
Pretokenizer read_pretokenizer(const GgufFile& file, std::string_view name,
                               const TokenizerOptions& options) {
  if (auto known = Pretokenizer::by_name(name)) return *std::move(known);
  if (!options.allow_unknown_pretokenizer) {
    throw FileError(file.name(), fmt::format("{}: expected one of {}; got {}", kPreKey,
                                             Pretokenizer::known_names(), quoted(name)));
  }
  return *Pretokenizer::by_name("gpt-2");
}

}  // namespace

struct Tokenizer::Impl {
  std::string model;
  std::string pre;
  Vocabulary vocabulary;
  SpecialRoles roles;
  std::optional<SpecialMatcher> matcher;
  std::optional<BytePairEncoder> byte_pair;  // exactly one of these two
  std::optional<SentencePieceEncoder> sentence_piece;
  bool adds_space_prefix = false;  // for a SentencePiece model only

  explicit Impl(const GgufFile& file) : model(read_model(file)), vocabulary(file) {}

  // Whether text behind this token begins anew, with a space prefix of its own. Not behind an
  // unknown token, which stands for text.
  bool interrupts_text(TokenId id) const {
    if (!vocabulary.contains(id)) return false;
    const TokenType type = vocabulary.type(id);
    return type == TokenType::kControl || type == TokenType::kUserDefined;
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_gguf(const GgufFile& file, const TokenizerOptions& options) {
  auto impl = std::make_unique<Impl>(file);
  SpecialDefaults defaults;
  if (impl->model == kBytePairModel) {
    impl->pre = file.get_string(kPreKey).value_or("default");
    Pretokenizer pretokenizer = read_pretokenizer(file, impl->pre, options);
    defaults.adds_bos = pretokenizer.adds_bos();
    impl->roles = read_special_roles(file, defaults, impl->vocabulary);
    impl->byte_pair.emplace(file, impl->vocabulary, std::move(pretokenizer));
  } else {
    defaults = {.bos = 1, .eos = 2, .unknown = 0, .adds_bos = true};
    impl->roles = read_special_roles(file, defaults, impl->vocabulary);
    impl->sentence_piece.emplace(impl->vocabulary);
    impl->adds_space_prefix = file.get_bool(kSpacePrefixKey).value_or(true);
  }
  impl->matcher.emplace(file, impl->vocabulary);
  return Tokenizer(std::move(impl));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special,
                                       bool parse_special) const {
  std::vector<TokenId> ids;
  if (add_special && adds_bos()) ids.push_back(*bos());
  bool begins_text = true;
  for (const Fragment& fragment : impl_->matcher->split(text, parse_special)) {
    if (fragment.token) {
      ids.push_back(*fragment.token);
    } else if (impl_->byte_pair) {
      impl_->byte_pair->encode(fragment.text, impl_->roles.unknown, ids);
    } else {
      impl_->sentence_piece->encode(fragment.text, impl_->adds_space_prefix && begins_text,
                                    impl_->roles.unknown, ids);
    }
    begins_text = fragment.token && impl_->interrupts_text(*fragment.token);
  }
  if (add_special && adds_eos()) ids.push_back(*eos());
  return ids;
}

std::string Tokenizer::piece(TokenId id, bool render_special) const {
  const Vocabulary& vocabulary = impl_->vocabulary;
  if (!vocabulary.contains(id)) return {};
  const std::string_view text = vocabulary.text(id);
  switch (vocabulary.type(id)) {
    case TokenType::kControl:
    case TokenType::kUnknown:
      return render_special ? std::string(text) : std::string();
    case TokenType::kUserDefined:
      return std::string(text);
    case TokenType::kByte:
      if (const auto byte = parse_byte_token(text)) return std::string(1, static_cast<char>(*byte));
      break;
    case TokenType::kNormal:
    case TokenType::kUndefined:
    case TokenType::kUnused:
      break;
  }
  return impl_->byte_pair ? alphabet_to_bytes(text) : unescape_spaces(text);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool render_special) const {
  std::string out;
  bool begins_text = true;
  for (const TokenId id : ids) {
    const std::string bytes = piece(id, render_special);
    const bool interrupts = impl_->interrupts_text(id);
    const bool has_prefix = impl_->adds_space_prefix && begins_text && !interrupts;
    out += has_prefix && bytes.starts_with(' ') ? std::string_view(bytes).substr(1) : bytes;
    begins_text = interrupts;
  }
  return out;
}

int32_t Tokenizer::n_vocab() const { return impl_->vocabulary.size(); }
std::optional<TokenId> Tokenizer::bos() const { return impl_->roles.bos; }
std::optional<TokenId> Tokenizer::eos() const { return impl_->roles.eos; }
bool Tokenizer::adds_bos() const { return impl_->roles.adds_bos; }
bool Tokenizer::adds_eos() const { return impl_->roles.adds_eos; }

bool Tokenizer::is_end_of_generation(TokenId id) const {
  return impl_->vocabulary.contains(id) && impl_->roles.ends_generation[static_cast<size_t>(id)];
}

TokenType Tokenizer::type(TokenId id) const {
  return impl_->vocabulary.contains(id) ? impl_->vocabulary.type(id) : TokenType::kUndefined;
}

std::string_view Tokenizer::text(TokenId id) const {
  return impl_->vocabulary.contains(id) ? impl_->vocabulary.text(id) : std::string_view();
}

std::optional<TokenId> Tokenizer::find(std::string_view text) const {
  return impl_->vocabulary.find(text);
}

std::string_view Tokenizer::model() const { return impl_->model; }
std::string_view Tokenizer::pretokenizer() const { return impl_->pre; }

}  // namespace tandem
