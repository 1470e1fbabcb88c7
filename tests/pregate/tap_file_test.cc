#include "runtime/pregate/tap_file.h"

#include <cstring>
#include <fstream>

#include "runtime/pregate/collection.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"
#include "tests/support/file_error.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr TapShape kShape{3, 4, 5, false};
constexpr TapShape kBoth{3, 4, 5, true};

// Token t, layer l: inputs 100 t + 10 l + i, logits their negatives; before attention a half more.
void fill(TapBuffer* taps, int n_tokens, bool before_attention = false) {
  for (int t = 0; t < n_tokens; ++t) {
    for (int l = 0; l < kShape.n_layers; ++l) {
      std::vector<float> input;
      std::vector<float> logits;
      for (int i = 0; i < kShape.d_model; ++i)
        input.push_back(static_cast<float>(100 * t + 10 * l + i));
      for (int i = 0; i < kShape.n_experts; ++i) {
        logits.push_back(-static_cast<float>(100 * t + 10 * l + i));
      }
      std::vector<float> before = input;
      for (float& v : before) v += 0.5F;
      taps->add(l, 7 + t, input.data(), logits.data(), before_attention ? before.data() : nullptr);
    }
  }
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_all(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace

TEST_CASE("taps are read as they were written, layer by layer") {
  const TempDir dir;
  TapBuffer taps(kShape);
  fill(&taps, 3);
  CHECK(taps.n_tokens() == 3);
  taps.write(dir / "a.taps");
  CHECK(static_cast<int64_t>(read_all(dir / "a.taps").size()) == taps.file_bytes());
  const TapFile file(dir / "a.taps", kShape);
  REQUIRE(file.n_tokens() == 3);
  CHECK(file.tokens() == std::vector<int32_t>{7, 8, 9});
  std::vector<float> inputs(10);
  std::vector<float> logits(8);
  file.read_inputs(2, 1, 2, inputs.data());
  file.read_logits(2, 1, 2, logits.data());
  CHECK(inputs == std::vector<float>{120, 121, 122, 123, 124, 220, 221, 222, 223, 224});
  CHECK(logits == std::vector<float>{-120, -121, -122, -123, -220, -221, -222, -223});
}

TEST_CASE("taps before attention are read as they were written, beside the others") {
  const TempDir dir;
  TapBuffer taps(kBoth);
  fill(&taps, 3, true);
  taps.write(dir / "a.taps");
  // As README.md counts: head, tokens, and of each layer two vectors of halves and the logits.
  CHECK(read_all(dir / "a.taps").size() == 28 + 4 * 3 + 3 * 3 * (2 * 2 * 5 + 4 * 4));
  CHECK(taps.file_bytes() == 3 * (TapBuffer::token_bytes(kBoth)) + 28);
  const TapFile file(dir / "a.taps", kBoth);
  REQUIRE(file.n_tokens() == 3);
  std::vector<float> inputs(10);
  std::vector<float> before(10);
  std::vector<float> logits(8);
  file.read_inputs(2, 1, 2, inputs.data());
  file.read_logits(2, 1, 2, logits.data());
  file.read_before_attention(2, 1, 2, before.data());
  CHECK(inputs == std::vector<float>{120, 121, 122, 123, 124, 220, 221, 222, 223, 224});
  CHECK(logits == std::vector<float>{-120, -121, -122, -123, -220, -221, -222, -223});
  CHECK(before == std::vector<float>{120.5, 121.5, 122.5, 123.5, 124.5,  //
                                     220.5, 221.5, 222.5, 223.5, 224.5});
}

TEST_CASE("files with and without taps before attention are not taken for each other") {
  const TempDir dir;
  const std::string path = dir / "a.taps";
  const auto error = [&](const std::string& bytes, const TapShape& shape) {
    write_all(path, bytes);
    return error_of([&] { const TapFile file(path, shape); });
  };
  TapBuffer both(kBoth);
  fill(&both, 2, true);
  both.write(path);
  const std::string whole = read_all(path);
  CHECK(error(whole, kBoth) == "no error");
  CHECK_THAT(error(whole, kShape), contains("version 2; expected 1"));
  CHECK_THAT(error(whole.substr(0, whole.size() - 1), kBoth), contains("truncated"));
  CHECK_THAT(error(whole + "x", kBoth), contains("bytes for 2 tokens"));
  std::string first = whole;
  first[8] = 1;  // the version: then it is too long
  CHECK_THAT(error(first, kBoth), contains("version 1; expected 2"));
  CHECK_THAT(error(first, kShape), contains("bytes for 2 tokens"));
  std::string third = whole;
  third[8] = 3;
  CHECK_THAT(error(third, kBoth), contains("version 3; expected 2"));
  std::string broken = whole;
  const uint16_t infinite = 0x7C00;
  // Layer 0, token 1, the first number before attention.
  std::memcpy(broken.data() + 28 + 8 + 2 * (2 * 5 + 4 * 4) + 2 * 5, &infinite, sizeof infinite);
  write_all(path, broken);
  const TapFile file(path, kBoth);
  std::vector<float> before(10);
  file.read_before_attention(0, 0, 1, before.data());
  CHECK_THAT(error_of([&] { file.read_before_attention(0, 0, 2, before.data()); }),
             contains("token 1, layer 0: an input is not finite"));
  const std::vector<float> numbers(5, 1.0F);
  TapBuffer taps(kBoth);
  CHECK(death_of([&] { taps.add(0, 1, numbers.data(), numbers.data()); }).by_signal == SIGABRT);
}

TEST_CASE("a token that did not pass all layers is not written") {
  const TempDir dir;
  TapBuffer taps(kShape);
  fill(&taps, 2);
  const std::vector<float> numbers(5, 1.0F);
  taps.add(0, 9, numbers.data(), numbers.data());
  taps.add(1, 9, numbers.data(), numbers.data());
  CHECK(taps.n_tokens() == 2);
  taps.write(dir / "a.taps");
  CHECK(TapFile(dir / "a.taps", kShape).n_tokens() == 2);
  taps.clear();
  fill(&taps, 1);
  CHECK(taps.n_tokens() == 1);
}

TEST_CASE("tap files that are damaged, cut or of another shape are refused") {
  const TempDir dir;
  TapBuffer taps(kShape);
  fill(&taps, 2);
  const std::string path = dir / "a.taps";
  taps.write(path);
  const std::string whole = read_all(path);
  const auto error = [&](const std::string& bytes, const TapShape& shape = kShape) {
    write_all(path, bytes);
    return error_of([&] { const TapFile file(path, shape); });
  };
  CHECK(error(whole) == "no error");
  CHECK_THAT(error(whole.substr(0, 20)), contains("a.taps"));
  CHECK_THAT(error(whole.substr(0, whole.size() - 1)), contains("truncated"));
  CHECK_THAT(error(whole + "x"), contains("bytes for 2 tokens"));
  std::string strange = whole;
  strange[0] = 'x';
  CHECK_THAT(error(strange), contains("expected TANDEMTP"));
  CHECK_THAT(error(whole, {3, 4, 6}), contains("a width of 6"));
  std::string many = whole;
  many[15] = '\x7F';  // the number of tokens
  CHECK_THAT(error(many), contains("expected at most"));
  std::string broken = whole;
  const uint16_t infinite = 0x7C00;
  std::memcpy(broken.data() + 28 + 8, &infinite, sizeof infinite);  // layer 0, token 0
  write_all(path, broken);
  const TapFile file(path, kShape);
  std::vector<float> inputs(5);
  CHECK_THAT(error_of([&] { file.read_inputs(0, 0, 1, inputs.data()); }),
             contains("token 0, layer 0: an input is not finite"));
}

TEST_CASE("a collection goes on with what is there, and only with its own kind") {
  const TempDir dir;
  const CollectionInfo info{"m", "abc", kShape, 3, "seed 1"};
  const std::filesystem::path folder = dir / "taps";
  {
    const Collection made = Collection::begin(folder, info);
    CHECK(made.prompts().empty());
    TapBuffer taps(kShape);
    fill(&taps, 2);
    taps.write(made.file(1).string());
  }
  const Collection again = Collection::begin(folder, info);
  CHECK(again.prompts() == std::vector<int64_t>{1});
  CHECK(again.has(1));
  CHECK_FALSE(again.has(0));
  CHECK(Collection::open(folder).info().shape == kShape);
  CollectionInfo other = info;
  other.made_with = "seed 2";
  CHECK_THROWS_WITH(Collection::begin(folder, other), contains("was begun with another"));
  CHECK_THAT(error_of([&] { Collection::open(dir / "none"); }), contains("collection.json"));
  write_all((folder / "collection.json").string(), "{\"format\":\"tandem-taps\",\"version\":3}");
  CHECK_THAT(error_of([&] { Collection::open(folder); }), contains("version: expected 1 or 2"));
  write_all((folder / "collection.json").string(), "{\"format\":\"tandem-taps\",\"version\":2}");
  CHECK_THAT(error_of([&] { Collection::open(folder); }), contains("taps: expected text"));
  write_all((folder / "collection.json").string(),
            "{\"format\":\"tandem-taps\",\"version\":2,\"taps\":\"x\"}");
  CHECK_THAT(error_of([&] { Collection::open(folder); }),
             contains("taps: expected router-input, pre-attention"));
  write_all((folder / "collection.json").string(), "[1");
  CHECK_THAT(error_of([&] { Collection::open(folder); }), contains("expected a JSON object"));
  write_all(dir / "x", "");
  CHECK_THAT(error_of([&] { Collection::begin(dir.path(), info); }), contains("expected an empty"));
}

TEST_CASE("a collection says whether it has taps before attention") {
  const TempDir dir;
  const CollectionInfo with{"m", "abc", kBoth, 3, "seed 1"};
  Collection::begin(dir / "taps", with);
  CHECK(Collection::open(dir / "taps").info().shape == kBoth);
  CHECK(Collection::begin(dir / "taps", with).prompts().empty());
  CHECK_THROWS_WITH(Collection::begin(dir / "taps", {"m", "abc", kShape, 3, "seed 1"}),
                    contains("was begun with another"));
}

TEST_CASE("taps of layers out of order are a bug of the caller") {
  TapBuffer taps(kShape);
  const std::vector<float> numbers(5, 1.0F);
  taps.add(0, 1, numbers.data(), numbers.data());
  CHECK(death_of([&] { taps.add(0, 2, numbers.data(), numbers.data()); }).by_signal == SIGABRT);
}

}  // namespace tandem::test
