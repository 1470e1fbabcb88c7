#include "runtime/text/special_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "runtime/error.h"
#include "runtime/model/gguf_file.h"
#include "runtime/text/ascii.h"

namespace tandem {
namespace {

constexpr std::string_view kBosKey = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kEosKey = "tokenizer.ggml.eos_token_id";
constexpr std::string_view kUnknownKey = "tokenizer.ggml.unknown_token_id";
constexpr std::string_view kAddBosKey = "tokenizer.ggml.add_bos_token";
constexpr std::string_view kAddEosKey = "tokenizer.ggml.add_eos_token";

// Tokens at which an answer is over in whichever vocabulary has them.
constexpr std::string_view kEndNames[] = {
    "<|im_end|>",       // ChatML
    "<|eot_id|>",       // Llama 3
    "<|eom_id|>",       // Llama 3, tool calls
    "<|end|>",          // Phi-3
    "<|return|>",       // gpt-oss
    "<|call|>",         // gpt-oss
    "<end_of_turn>",    // Gemma
    "<|endoftext|>",    // GPT-2, Qwen, OLMo
    "<|end_of_text|>",  // Llama 3, Granite
    "<EOT>",            // CodeLlama
    "_<EOT>",           // CodeLlama, as some converters write it
    "[EOT]",            // Kimi
    "[EOS]",            // Kimi
    "</s>",             // Llama 2, Mistral
    "<|fim_pad|>",      // Qwen, as are the next two: a file is over
    "<|repo_name|>",
    "<|file_sep|>",
    "<｜end▁of▁sentence｜>",  // DeepSeek
};

std::optional<TokenId> read_id(const GgufFile& file, std::string_view key,
                               const Vocabulary& vocabulary, std::optional<TokenId> otherwise) {
  const std::optional<uint64_t> id = file.get_uint(key);
  if (!id) return otherwise && vocabulary.contains(*otherwise) ? otherwise : std::nullopt;
  if (*id >= static_cast<uint64_t>(vocabulary.size())) {
    throw FileError(file.name(), fmt::format("{}: expected a token id below {}, got {}", key,
                                             vocabulary.size(), *id));
  }
  return static_cast<TokenId>(*id);
}

// The file's wish to add `id`; what only a default asks for is dropped where there is no such id.
bool read_adds(const GgufFile& file, std::string_view key, std::string_view id_key,
               std::optional<TokenId> id, bool otherwise) {
  const std::optional<bool> adds = file.get_bool(key);
  if (adds == true && !id) {
    throw FileError(file.name(), fmt::format("{}: expected it, because {} is true, got no such key",
                                             id_key, key));
  }
  return adds.value_or(otherwise && id);
}

void mark_ends(const GgufFile& file, Vocabulary& vocabulary, SpecialRoles& roles) {
  const auto mark = [&roles](std::optional<TokenId> id) {
    if (id) roles.ends_generation[static_cast<size_t>(*id)] = true;
  };
  mark(roles.eos);
  for (const std::string_view key :
       {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    mark(read_id(file, key, vocabulary, std::nullopt));
  }
  // gpt-oss ends each part of an answer with <|end|> and the whole with one of the other two.
  const bool end_is_inside =
      vocabulary.find("<|return|>").has_value() && vocabulary.find("<|call|>").has_value();
  for (const std::string_view name : kEndNames) {
    const std::optional<TokenId> id = vocabulary.find(name);
    if (!id || (end_is_inside && name == "<|end|>")) continue;
    mark(id);
    vocabulary.make_control(*id);
  }
}

std::string lower_ascii(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

}  // namespace

SpecialRoles read_special_roles(const GgufFile& file, const SpecialDefaults& defaults,
                                Vocabulary& vocabulary) {
  SpecialRoles roles;
  roles.bos = read_id(file, kBosKey, vocabulary, defaults.bos);
  roles.eos = read_id(file, kEosKey, vocabulary, defaults.eos);
  roles.unknown = read_id(file, kUnknownKey, vocabulary, defaults.unknown);
  roles.adds_bos = read_adds(file, kAddBosKey, kBosKey, roles.bos, defaults.adds_bos);
  roles.adds_eos = read_adds(file, kAddEosKey, kEosKey, roles.eos, false);
  roles.ends_generation.assign(static_cast<size_t>(vocabulary.size()), false);
  mark_ends(file, vocabulary, roles);
  return roles;
}

SpecialMatcher::SpecialMatcher(const GgufFile& file, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary) {
  const std::string name = lower_ascii(file.get_string("general.name").value_or(""));
  strips_right_ = name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
  always_ = make_table(file, false);
  with_special_ = make_table(file, true);
}

SpecialMatcher::Table SpecialMatcher::make_table(const GgufFile& file, bool with_special) const {
  Table table;
  for (TokenId id = 0; id < vocabulary_.size(); ++id) {
    const bool wanted = vocabulary_.type(id) == TokenType::kUserDefined ||
                        (with_special && vocabulary_.is_special(id));
    // Of several tokens with one text only the one that find() gives.
    if (!wanted || vocabulary_.find(vocabulary_.text(id)) != id) continue;
    if (vocabulary_.text(id).size() > kMaxBytes) {
      throw FileError(
          file.name(),
          fmt::format("tokenizer.ggml.tokens[{}]: expected at most {} bytes in a special "
                      "or user-defined token, got {}",
                      id, kMaxBytes, vocabulary_.text(id).size()));
    }
    table.ids.push_back(id);
  }
  std::sort(table.ids.begin(), table.ids.end(),
            [this](TokenId a, TokenId b) { return vocabulary_.text(a) < vocabulary_.text(b); });
  for (size_t i = 0; i < table.ids.size(); ++i) {
    auto& range = table.ranges[static_cast<uint8_t>(vocabulary_.text(table.ids[i])[0])];
    if (range.second == 0) range.first = i;
    range.second = i + 1;
  }
  return table;
}

std::optional<TokenId> SpecialMatcher::longest_at(const Table& table, std::string_view text) const {
  auto [first, last] = table.ranges[static_cast<uint8_t>(text[0])];
  std::optional<TokenId> longest;
  // [first, last) are the tokens that begin with text's first `n` bytes; the one that is those
  // bytes and no more comes first among them.
  for (size_t n = 1; first < last; ++n) {
    if (vocabulary_.text(table.ids[first]).size() == n) longest = table.ids[first++];
    if (n == text.size()) break;
    const auto byte_at = [&](TokenId id) { return static_cast<uint8_t>(vocabulary_.text(id)[n]); };
    const auto byte = static_cast<uint8_t>(text[n]);
    const auto begin = table.ids.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = table.ids.begin() + static_cast<std::ptrdiff_t>(last);
    const auto low =
        std::partition_point(begin, end, [&](TokenId id) { return byte_at(id) < byte; });
    const auto high =
        std::partition_point(low, end, [&](TokenId id) { return byte_at(id) == byte; });
    first = static_cast<size_t>(low - table.ids.begin());
    last = static_cast<size_t>(high - table.ids.begin());
  }
  return longest;
}

bool SpecialMatcher::takes_spaces_behind(TokenId id) const {
  const std::string_view text = vocabulary_.text(id);
  return strips_right_ && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
}

std::vector<Fragment> SpecialMatcher::split(std::string_view text, bool parse_special) const {
  const Table& table = parse_special ? with_special_ : always_;
  std::vector<Fragment> fragments;
  size_t text_from = 0;
  const auto put_text = [&](size_t end) {
    if (end > text_from) {
      fragments.push_back({std::nullopt, text.substr(text_from, end - text_from)});
    }
  };
  for (size_t at = 0; at < text.size();) {
    const std::optional<TokenId> id = longest_at(table, text.substr(at));
    if (!id) {
      ++at;
      continue;
    }
    put_text(at);
    const size_t size = vocabulary_.text(*id).size();
    fragments.push_back({id, text.substr(at, size)});
    at += size;
    if (takes_spaces_behind(*id))
      at = std::min(text.find_first_not_of(kAsciiSpaces, at), text.size());
    text_from = at;
  }
  put_text(text.size());
  return fragments;
}

}  // namespace tandem
