#include "runtime/text/pretokenizer.h"

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

// The patterns, each from the tokenizer.json of the model family that it is named after; `\s` is
// Unicode White_Space (RegexSplitter). Runs of characters are matched without nested repetition,
// so that no text costs more than a constant number of passes.
using Pattern = const char*;

constexpr Pattern kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
                          R"(|\s+(?!\S)|\s+)";
constexpr Pattern kDigit = R"(\p{N})";
constexpr Pattern kDigits = R"(\p{N}+)";
constexpr Pattern kThreeDigits = R"([0-9][0-9][0-9])";
constexpr Pattern kUpToThreeDigits = R"(\p{N}{1,3})";
constexpr Pattern kNewline = R"([\r\n])";

// The end that llama-bpe's and qwen2's patterns have in common, after letters and digits.
#define TANDEM_SYMBOLS_AND_SPACES R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define TANDEM_CONTRACTIONS R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define TANDEM_LETTERS R"(|[^\r\n\p{L}\p{N}]?\p{L}+)"

constexpr Pattern kLlama3 =
    TANDEM_CONTRACTIONS TANDEM_LETTERS R"(|\p{N}{1,3})" TANDEM_SYMBOLS_AND_SPACES;
constexpr Pattern kQwen2 = TANDEM_CONTRACTIONS TANDEM_LETTERS R"(|\p{N})" TANDEM_SYMBOLS_AND_SPACES;
constexpr Pattern kQwen35 =
    TANDEM_CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)"
                        R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kBailing =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*)"
    R"(|\s*[\r\n]|\s+(?!\S)|\s+)";

// Words whose capitals come first, with and without small letters behind them.
#define TANDEM_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define TANDEM_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define TANDEM_CASED_WORD(end)                                  \
  R"([^\r\n\p{L}\p{N}]?)" TANDEM_UPPER "*" TANDEM_LOWER "+" end \
  R"(|[^\r\n\p{L}\p{N}]?)" TANDEM_UPPER "+" TANDEM_LOWER "*" end
#define TANDEM_SYMBOLS_SLASH_AND_SPACES R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"

constexpr Pattern kGpt4o =
    TANDEM_CASED_WORD(TANDEM_CONTRACTIONS "?") R"(|\p{N}{1,3})" TANDEM_SYMBOLS_SLASH_AND_SPACES;
constexpr Pattern kTekken = TANDEM_CASED_WORD("") R"(|\p{N})" TANDEM_SYMBOLS_SLASH_AND_SPACES;

// DeepSeek-LLM lists the cased letters (of Unicode 12, less a few) where others write \p{L}.
constexpr Pattern kDeepSeekLetters =
    R"(\s?[)"
    R"(\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA})"
    R"(\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377})"
    R"(\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5})"
    R"(\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5})"
    R"(\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B})"
    R"(\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D})"
    R"(\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC})"
    R"(\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115})"
    R"(\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139})"
    R"(\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B})"
    R"(\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B})"
    R"(\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})"
    R"(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A})"
    R"(\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2})"
    R"(\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})"
    R"(]+)";
constexpr Pattern kDeepSeekPunctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
// `\s+$`, said so that each run of spaces is looked at once only.
constexpr Pattern kSpacesAtEnd = R"((?<!\s)\s++\z)";
// [一-龥ࠀ-一가-퟿]
constexpr Pattern kDeepSeekCjk = R"([\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]+)";
constexpr Pattern kSpaceLetters = R"(\s?\p{L}+)";
constexpr Pattern kSpacePunctuation = R"(\s?\p{P}+)";
// [一-龥぀-ゟ゠-ヿ]
constexpr Pattern kDeepSeek3Cjk = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+)";
constexpr Pattern kDeepSeek3Rest =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr Pattern kPunctuation = R"([\p{P}$+<=>^~|`]+)";  // ASCII's symbols included
constexpr Pattern kPunctuationNoGrave = R"([\p{P}$+<=>^~|]+)";

#undef TANDEM_SYMBOLS_AND_SPACES
#undef TANDEM_CONTRACTIONS
#undef TANDEM_LETTERS
#undef TANDEM_UPPER
#undef TANDEM_LOWER
#undef TANDEM_CASED_WORD
#undef TANDEM_SYMBOLS_SLASH_AND_SPACES

constexpr Pattern kGpt2Stages[] = {kGpt2};
constexpr Pattern kDigitGpt2Stages[] = {kDigit, kGpt2};
constexpr Pattern kLlama3Stages[] = {kLlama3};
constexpr Pattern kQwen2Stages[] = {kQwen2};
constexpr Pattern kQwen35Stages[] = {kQwen35};
constexpr Pattern kBailingStages[] = {kBailing};
constexpr Pattern kGpt4oStages[] = {kGpt4o};
constexpr Pattern kTekkenStages[] = {kTekken};
constexpr Pattern kDeepSeekLlmStages[] = {kNewline,     kDeepSeekLetters, kDeepSeekPunctuation,
                                          kSpacesAtEnd, kDeepSeekCjk,     kDigits};
constexpr Pattern kDeepSeekCoderStages[] = {kNewline, kSpaceLetters, kSpacePunctuation,
                                            kDeepSeekCjk, kDigit};
constexpr Pattern kDeepSeek3Stages[] = {kUpToThreeDigits, kDeepSeek3Cjk, kDeepSeek3Rest};
constexpr Pattern kFalconStages[] = {kPunctuation, kGpt2, kThreeDigits};
constexpr Pattern kDefaultStages[] = {kPunctuationNoGrave, kGpt2, kDigits, kThreeDigits};

struct Named {
  std::string_view name;
  std::span<const Pattern> stages;
  bool ignores_merges = false;
  bool adds_bos = false;
};

// Names as GGUF converters write them.
constexpr Named kNamed[] = {
    {"gpt-2", kGpt2Stages},
    {"mpt", kGpt2Stages},
    {"olmo", kGpt2Stages},
    {"phi-2", kGpt2Stages},
    {"mellum", kGpt2Stages},
    {"exaone4", kGpt2Stages},
    {"trillion", kGpt2Stages},
    {"starcoder", kDigitGpt2Stages},
    {"refact", kDigitGpt2Stages},
    {"command-r", kDigitGpt2Stages},
    {"smollm", kDigitGpt2Stages},
    {"codeshell", kDigitGpt2Stages},
    {"exaone", kDigitGpt2Stages},
    {"minerva-7b", kDigitGpt2Stages},
    {"llama-bpe", kLlama3Stages, true, true},
    {"llama3", kLlama3Stages, true, true},
    {"llama-v3", kLlama3Stages, true, true},
    {"falcon3", kLlama3Stages, true, true},
    {"pixtral", kLlama3Stages, true, true},
    {"lfm2", kLlama3Stages, true, true},
    {"dbrx", kLlama3Stages},
    {"smaug-bpe", kLlama3Stages},
    {"chatglm-bpe", kLlama3Stages},
    {"glm4", kLlama3Stages, true},
    {"qwen2", kQwen2Stages},
    {"deepseek-r1-qwen", kQwen2Stages},
    {"megrez", kQwen2Stages},
    {"stablelm2", kQwen2Stages},
    {"hunyuan", kQwen2Stages},
    {"grok-2", kQwen2Stages},
    {"qwen35", kQwen35Stages},
    {"bailingmoe", kBailingStages},
    {"bailingmoe2", kBailingStages},
    {"llada-moe", kBailingStages},
    {"gpt-4o", kGpt4oStages},
    {"llama4", kGpt4oStages},
    {"minimax-m2", kGpt4oStages},
    {"tekken", kTekkenStages, true, true},
    {"deepseek-llm", kDeepSeekLlmStages},
    {"deepseek-coder", kDeepSeekCoderStages},
    {"deepseek-v3", kDeepSeek3Stages},
    {"hunyuan-dense", kDeepSeek3Stages},
    {"falcon", kFalconStages},
    {"default", kDefaultStages},
};

}  // namespace

std::optional<Pretokenizer> Pretokenizer::by_name(std::string_view name) {
  for (const Named& named : kNamed) {
    if (named.name != name) continue;
    Pretokenizer result;
    for (const Pattern pattern : named.stages) result.stages_.emplace_back(pattern);
    result.ignores_merges_ = named.ignores_merges;
    result.adds_bos_ = named.adds_bos;
    return result;
  }
  return std::nullopt;
}

std::string Pretokenizer::known_names() {
  std::string names;
  for (const Named& named : kNamed) {
    if (!names.empty()) names += ", ";
    names += named.name;
  }
  return names;
}

std::vector<std::string_view> Pretokenizer::split(std::string_view text) const {
  std::vector<std::string_view> words;
  std::vector<std::string_view> parts;
  std::vector<std::string_view> next;
  const auto split_valid = [&](std::string_view valid) {
    if (valid.empty()) return;
    parts.assign(1, valid);
    for (const RegexSplitter& stage : stages_) {
      next.clear();
      for (const std::string_view part : parts) stage.split(part, next);
      parts.swap(next);
    }
    words.insert(words.end(), parts.begin(), parts.end());
  };

  size_t valid_from = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (!c.valid) {
      split_valid(text.substr(valid_from, at - valid_from));
      words.push_back(text.substr(at, c.size));
      valid_from = at + c.size;
    }
    at += c.size;
  }
  split_valid(text.substr(valid_from));
  return words;
}

}  // namespace tandem
