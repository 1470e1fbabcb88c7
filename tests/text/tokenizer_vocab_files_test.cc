// Vocabularies of published models against the ids that their own tokenizers gave: files named
// ggml-vocab-NAME.gguf with NAME.gguf.inp and NAME.gguf.out beside them, as llama.cpp's folder
// `models` has them. They are not ours to ship: TANDEM_VOCAB_DIR names the folder.
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/read_file.h"
#include "tests/text/text_test_util.h"

namespace tandem::test {
namespace {

constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";

std::vector<std::string> read_inputs(const std::filesystem::path& path) {
  const std::string all = read_file(path);
  std::vector<std::string> texts;
  for (size_t at = 0; at < all.size();) {
    const size_t end = all.find(kSeparator, at);
    if (end == std::string::npos) break;  // what follows the last separator is empty
    texts.push_back(all.substr(at, end - at));
    at = end + kSeparator.size();
  }
  return texts;
}

// One line of ids for each text.
std::vector<Ids> read_outputs(const std::filesystem::path& path) {
  std::istringstream lines(read_file(path));
  std::vector<Ids> result;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    result.emplace_back(std::istream_iterator<TokenId>(fields), std::istream_iterator<TokenId>());
  }
  return result;
}

bool is_supported(const GgufFile& file) {
  const auto model = file.get_string("tokenizer.ggml.model").value_or("");
  return model == "gpt2" || model == "llama";
}

TEST_CASE("published vocabularies give their own tokenizers' ids (needs TANDEM_VOCAB_DIR)") {
  const char* folder = std::getenv("TANDEM_VOCAB_DIR");
  if (folder == nullptr) {
    WARN("SKIPPED: TANDEM_VOCAB_DIR names no folder with ggml-vocab-*.gguf, .inp and .out files");
    return;
  }
  size_t compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".gguf" || !std::filesystem::exists(path + ".out")) continue;
    const GgufFile file = GgufFile::open(entry.path());
    if (!is_supported(file)) {
      WARN("not supported, left out: " << path);
      continue;
    }
    const Tokenizer tokenizer = Tokenizer::from_gguf(file);
    const std::vector<std::string> texts = read_inputs(path + ".inp");
    const std::vector<Ids> expected = read_outputs(path + ".out");
    REQUIRE(texts.size() == expected.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      CAPTURE(path, texts[i]);
      CHECK(tokenizer.encode(texts[i], false, false) == expected[i]);
    }
    ++compared;
  }
  CHECK(compared > 0);
}

}  // namespace
}  // namespace tandem::test
