// libFuzzer target: no text crashes a tokenizer or is changed by it, and no vocabulary ends
// otherwise than in a FileError or in a tokenizer whose ids are its own. README.md says how to run.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/model/gguf_file.h"
#include "runtime/text/tokenizer.h"
#include "tests/support/gguf_builder.h"

namespace tandem {
namespace {

constexpr char kHex[] = "0123456789ABCDEF";
constexpr const char* kSpaceMark = "\xE2\x96\x81";

Tokenizer demo_tokenizer() {
  return Tokenizer::from_gguf(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf"));
}

Tokenizer build(const test::GgufBuilder& builder) {
  const test::Bytes image = builder.build();
  return Tokenizer::from_gguf(GgufFile::from_memory(image, "fuzz"),
                              {.allow_unknown_pretokenizer = true});
}

Tokenizer sentencepiece_tokenizer() {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>", "<tool>"};
  std::vector<int32_t> types{2, 3, 3, 4};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">");
    types.push_back(6);
  }
  for (const char* piece : {"a", "b", "ab", "ba", "abab", "\xC3\xA9", "  ", "<", "/", "s", ">",
                            "</", "s>", "0", "1", "10", "\n", "\n\n"}) {
    tokens.emplace_back(piece);
  }
  tokens.emplace_back(kSpaceMark);
  tokens.push_back(std::string(kSpaceMark) + "a");
  tokens.push_back(std::string(kSpaceMark) + kSpaceMark);
  types.resize(tokens.size(), 1);
  std::vector<float> scores;
  for (size_t i = 0; i < tokens.size(); ++i) scores.push_back(-static_cast<float>(i));
  test::GgufBuilder builder;
  builder.add("tokenizer.ggml.model", "llama").add_strings("tokenizer.ggml.tokens", tokens);
  builder.add_array("tokenizer.ggml.token_type", types);
  return build(builder.add_array("tokenizer.ggml.scores", scores));
}

void check_round_trip(const Tokenizer& tokenizer, const std::string& text) {
  for (const bool parse_special : {false, true}) {
    const std::vector<TokenId> ids = tokenizer.encode(text, false, parse_special);
    TANDEM_CHECK(tokenizer.decode(ids, parse_special) == text, "%zu bytes came back changed",
                 text.size());
  }
}

void fuzz_text(const std::string& text) {
  static const Tokenizer demo = demo_tokenizer();
  static const Tokenizer pieces = sentencepiece_tokenizer();
  check_round_trip(demo, text);
  // SentencePiece itself cannot tell U+2581 from a space.
  if (text.find(kSpaceMark) == std::string::npos) check_round_trip(pieces, text);
}

std::string short_text(FuzzedDataProvider& data) { return data.ConsumeRandomLengthString(24); }

std::vector<std::string> short_texts(FuzzedDataProvider& data, bool is_merge) {
  std::vector<std::string> texts(data.ConsumeIntegralInRange<size_t>(0, 40));
  for (std::string& text : texts) {
    text = short_text(data);
    if (is_merge && data.ConsumeBool()) text += " " + short_text(data);
  }
  return texts;
}

void add_scalars(FuzzedDataProvider& data, size_t n_tokens, test::GgufBuilder& builder) {
  const auto maybe_wrong = [&] { return data.ConsumeIntegralInRange<size_t>(0, 20) == 0; };
  const auto length = [&] { return maybe_wrong() ? n_tokens + 1 : n_tokens; };
  if (data.ConsumeBool()) {
    std::vector<float> scores(length());
    for (float& score : scores) score = data.ConsumeFloatingPoint<float>();
    builder.add_array("tokenizer.ggml.scores", scores);
  }
  if (data.ConsumeBool()) {
    std::vector<int32_t> types(length());
    for (int32_t& type : types) type = data.ConsumeIntegralInRange<int32_t>(-1, 8);
    builder.add_array("tokenizer.ggml.token_type", types);
  }
  for (const char* name : {"bos", "eos", "eot", "unknown"}) {
    if (!data.ConsumeBool()) continue;
    const auto id = data.ConsumeIntegralInRange<uint32_t>(0, static_cast<uint32_t>(length()));
    builder.add_u32("tokenizer.ggml." + std::string(name) + "_token_id", id);
  }
  for (const char* key : {"add_bos_token", "add_eos_token", "add_space_prefix"}) {
    if (data.ConsumeBool())
      builder.add_bool("tokenizer.ggml." + std::string(key), data.ConsumeBool());
  }
}

void fuzz_vocabulary(FuzzedDataProvider& data) {
  test::GgufBuilder builder;
  builder.add("tokenizer.ggml.model", data.PickValueInArray({"gpt2", "llama", "bert"}));
  builder.add("tokenizer.ggml.pre", data.PickValueInArray({"gpt-2", "llama-bpe", "qwen2",
                                                           "deepseek-llm", "gpt-4o", "?"}));
  builder.add("general.name", data.PickValueInArray({"phi-3", "x"}));
  const std::vector<std::string> tokens = short_texts(data, false);
  builder.add_strings("tokenizer.ggml.tokens", tokens);
  builder.add_strings("tokenizer.ggml.merges", short_texts(data, true));
  add_scalars(data, tokens.size(), builder);

  const Tokenizer tokenizer = build(builder);
  const bool parse_special = data.ConsumeBool();
  const std::string text = data.ConsumeRemainingBytesAsString();
  const std::vector<TokenId> ids = tokenizer.encode(text, true, parse_special);
  for (const TokenId id : ids) {
    TANDEM_CHECK(id >= 0 && id < tokenizer.n_vocab(), "id %d of %d", id, tokenizer.n_vocab());
  }
  tokenizer.decode(ids, parse_special);
}

}  // namespace
}  // namespace tandem

// NOLINTNEXTLINE(readability-identifier-naming): the name that libFuzzer calls.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  if (data.ConsumeBool()) {
    tandem::fuzz_text(data.ConsumeRemainingBytesAsString());
    return 0;
  }
  try {
    tandem::fuzz_vocabulary(data);
  } catch (const tandem::FileError&) {
    return 0;
  }
  return 0;
}
