#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {

TEST_CASE("inspect takes the model as an argument or with -m") {
  const std::string path = family_model("qwen3moe-f32");
  const Outcome plain = tandem({"inspect", path});
  CHECK(plain.exit_code == 0);
  CHECK(plain.out == tandem({"inspect", "-m", path}).out);
  CHECK(contains(plain.out, "qwen3moe.expert_count"));
  CHECK(contains(plain.out, "one expert"));
  CHECK(contains(plain.out, "active bytes a token"));
}

TEST_CASE("inspect divides a model's bytes into experts and the rest") {
  const auto json = tandem({"inspect", "--json", "--tensors", family_model("qwen3moe-f32")}).json();
  // 2 layers, 6 experts, top-2; gate, up and down of 32 x 8 F32 values each.
  constexpr uint64_t kExpert = 3 * 32 * 8 * 4;
  CHECK(json["expert_bytes"] == kExpert);
  CHECK(json["all_expert_bytes"] == 2 * 6 * kExpert);
  uint64_t total = 0;
  for (const auto& tensor : json["tensors"]) total += tensor["bytes"].get<uint64_t>();
  CHECK(json["other_bytes"] == total - 2 * 6 * kExpert);
  // The embedding is tied, so it is read as the output matrix.
  CHECK(json["active_bytes_per_token"] == total - 2 * (6 - 2) * kExpert);
}

TEST_CASE("inspect counts merged and split experts alike") {
  const auto merged = tandem({"inspect", "--json", family_model("llama-q4_0-linear")}).json();
  const auto split = tandem({"inspect", "--json", family_model("llama-q4_0-linear-split")}).json();
  for (const char* key :
       {"expert_bytes", "all_expert_bytes", "other_bytes", "active_bytes_per_token"}) {
    INFO(key);
    CHECK(merged[key] == split[key]);
    CHECK(merged[key].get<uint64_t>() > 0);
  }
}

TEST_CASE("inspect counts tensors and bytes by type") {
  const auto json = tandem({"inspect", "--json"}).json();
  CHECK(json["metadata"]["general.architecture"] == "qwen3moe");
  CHECK(json["metadata"]["tokenizer.ggml.tokens"]["length"] == 4096);
  CHECK(json["types"]["q8_0"]["tensors"].get<int>() + json["types"]["f32"]["tensors"].get<int>() ==
        json["tensor_count"].get<int>());
  CHECK_FALSE(json.contains("tensors"));
}

TEST_CASE("inspect shows names from a file without letting them steer the terminal") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("general.architecture", "no\x1b[31msuch");
  builder.add("bad\x1b[2Jkey\n", "caf\xc3\xa9 \xff");
  builder.add("c1\xc2\x9b",
              "\xc2\x9b"
              "2J\x7f\xc2\x80\xc2\xa0");
  builder.add_tensor_f32("ten\x1b[0msor\nname", {2}, {1, 2});
  builder.write_file(dir / "a.gguf");
  const Outcome run = tandem({"inspect", "--tensors", dir / "a.gguf"});
  INFO(run.out << run.err);
  for (const char* control : {"\x1b", "\x7f", "\xc2\x9b", "\xc2\x80"}) {
    CHECK_FALSE(contains(run.out + run.err, control));
  }
  CHECK(is_utf8(run.out));
  CHECK(contains(run.out, "\xc2\xa0"));  // a space, and no control character

  const Outcome json = tandem({"inspect", "--json", dir / "a.gguf"});
  CHECK_FALSE(contains(json.out, "\xc2\x9b"));
  CHECK(json.json()["metadata"]["c1\xc2\x9b"] ==
        "\xc2\x9b"
        "2J\x7f\xc2\x80\xc2\xa0");
}

TEST_CASE("inspect cuts long values between characters") {
  const TempDir dir;
  for (size_t shift = 0; shift < 3; ++shift) {
    std::string text(shift, 'x');
    for (int i = 0; i < 200; ++i) text += "€";
    GgufBuilder builder;
    builder.add("general.name", text).add_tensor_f32("t", {1}, {1});
    builder.write_file(dir / "a.gguf");
    const Outcome run = tandem({"inspect", dir / "a.gguf"});
    CHECK(run.exit_code == 0);
    CHECK(is_utf8(run.out));
  }
}

}  // namespace tandem::test
