// Reading a model shape: what each key becomes, and what is refused.
#include "runtime/config/model_shape.h"

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/config/embedded.h"
#include "runtime/error.h"
#include "tests/config/temp_file.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;

// A complete shape with some keys set to other values; an empty value leaves the key out.
std::string shape(const std::map<std::string, std::string>& changes = {}) {
  std::map<std::string, std::string> keys = {
      {"layers", "5"},    {"d_model", "64"},      {"heads", "4"},     {"kv_heads", "2"},
      {"head_dim", "16"}, {"experts", "8"},       {"top_k", "3"},     {"expert_ff", "96"},
      {"vocab", "1000"},  {"expert_bits", "4.5"}, {"rest_bits", "8"}, {"split_block", "32"}};
  for (const auto& [key, value] : changes) keys[key] = value;
  std::string text;
  for (const auto& [key, value] : keys) {
    if (!value.empty()) text.append(key).append(" = ").append(value).append("\n");
  }
  return text;
}

// The same with the attention given as sums.
std::string latent_shape(std::map<std::string, std::string> changes = {}) {
  changes.insert({{"heads", ""}, {"kv_heads", ""}, {"head_dim", ""}});
  changes.insert({{"attention_params", "5000"}, {"kv_width", "40"}, {"attention_width", "70"}});
  return shape(changes);
}

ModelShape parse(const std::string& text) { return parse_model_shape(text, "test", "here.toml"); }

// What the ConfigError says; "" when there is none.
std::string complaint(const std::string& text) {
  try {
    parse(text);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

// One line that names file and key.
bool names(const std::string& message, const std::string& key) {
  CAPTURE(message, key);
  const std::string start = "here.toml: " + key;
  CHECK(message.rfind(start, 0) == 0);
  CHECK((message.size() > start.size() && (message[start.size()] == ' ' ||  //
                                           message[start.size()] == '[')));
  return message.rfind(start, 0) == 0 && message.find('\n') == std::string::npos;
}

bool refused(const std::string& key, const std::string& value) {
  CAPTURE(value);
  return names(complaint(shape({{key, value}})), key);
}

const std::vector<std::string> kNeeded = {"layers",    "d_model",     "heads",     "kv_heads",
                                          "head_dim",  "experts",     "top_k",     "vocab",
                                          "expert_ff", "expert_bits", "rest_bits", "split_block"};

TEST_CASE("an expert has three matrices and the bytes that its bits take") {
  const ModelShape s = parse(shape());
  CHECK(s.name == "test");
  CHECK(s.n_layers == 5);
  CHECK(s.n_experts == 8);
  CHECK(s.top_k == 3);
  CHECK(s.expert_params == 18432);                          // 3 x 64 x 96
  CHECK(s.expert_bytes == std::vector<int64_t>(5, 10368));  // 18432 x 4.5 / 8
}

TEST_CASE("attention counts its four matrices, two norms and the router, these in 32 bits") {
  const ModelShape s = parse(shape());
  // 64 x 64 for queries and for output, 64 x 32 for keys and for values; 64 x (8 + 2) exact.
  CHECK(s.attention.params == 12288 + 640);
  CHECK(s.attention.bytes == 12288 + 2560);
  CHECK(s.kv_bytes_per_token == 128);  // keys and values, 2 heads x 16, 2 bytes
  CHECK(s.attention_width == 64);
}

TEST_CASE("attention given as sums is taken as it stands") {
  const ModelShape s = parse(latent_shape());
  CHECK(s.attention.params == 5000 + 640);
  CHECK(s.attention.bytes == 5000 + 2560);
  CHECK(s.kv_bytes_per_token == 80);
  CHECK(s.attention_width == 70);
}

TEST_CASE("a model without shared experts and dense layers has the output head only") {
  const ModelShape s = parse(shape());
  CHECK(s.shared_expert.params == 0);
  CHECK(s.shared_expert.bytes == 0);
  CHECK(s.other.params == 64000);
  CHECK(s.other.bytes == 64000);
}

TEST_CASE("a shared expert has three matrices in the rest's bits") {
  const ModelShape s = parse(shape({{"shared_ff", "48"}, {"rest_bits", "4"}}));
  CHECK(s.shared_expert.params == 9216);
  CHECK(s.shared_expert.bytes == 4608);
}

TEST_CASE("leading dense layers have no experts and count once a step with the head") {
  const ModelShape s = parse(shape({{"dense_layers", "2"}, {"dense_ff", "200"}}));
  CHECK(s.n_layers == 3);
  CHECK(s.expert_bytes.size() == 3);
  CHECK(s.other.params == 64000 + 2 * (12288 + 38400));
  CHECK(s.other.bytes == s.other.params);
}

TEST_CASE("the output head may have bits of its own") {
  const ModelShape s = parse(shape(
      {{"dense_layers", "1"}, {"dense_ff", "200"}, {"rest_bits", "4"}, {"output_bits", "6"}}));
  CHECK(s.other.bytes == 48000 + (12288 + 38400) / 2);
}

TEST_CASE("experts may have other bits in each layer") {
  const ModelShape s =
      parse(shape({{"expert_bits", ""}, {"expert_bits_by_layer", "[4, 8, 4.5, 16, 2]"}}));
  CHECK(s.expert_bytes == std::vector<int64_t>{9216, 18432, 10368, 36864, 4608});
}

TEST_CASE("a part of a byte counts as a byte") {
  const ModelShape s = parse(
      shape({{"d_model", "1"}, {"expert_ff", "1"}, {"split_block", "1"}, {"expert_bits", "3"}}));
  CHECK(s.expert_bytes[0] == 2);  // 9 bits
}

TEST_CASE("an expert splits into as many pieces as it has blocks, at most 64") {
  CHECK(parse(shape({{"split_block", "32"}})).split_pieces == 3);
  CHECK(parse(shape({{"split_block", "96"}})).split_pieces == 1);
  CHECK(parse(shape({{"split_block", "1"}})).split_pieces == 64);
  CHECK(parse(shape({{"expert_ff", "64"}, {"split_block", "1"}})).split_pieces == 64);
}

TEST_CASE("a missing key of a shape is named, with its file") {
  for (const std::string& key : kNeeded) {
    CHECK(complaint(shape({{key, ""}})) == "here.toml: " + key + " is missing");
  }
  for (const auto* key : {"kv_width", "attention_width"}) {
    CHECK(complaint(latent_shape({{key, ""}})) == std::string("here.toml: ") + key + " is missing");
  }
  CHECK(complaint(shape({{"dense_layers", "1"}})) == "here.toml: dense_ff is missing");
}

TEST_CASE("a misspelt key of a shape is named, with its file") {
  CHECK(complaint(shape({{"n_layers", "5"}})) == "here.toml: n_layers is not a known setting");
  CHECK(complaint(shape({{"bits.expert", "4"}})) ==
        "here.toml: bits.expert is not a known setting");
}

TEST_CASE("a count that is zero, negative or absurdly large is refused") {
  for (const auto* key : {"layers", "d_model", "heads", "kv_heads", "head_dim", "experts", "top_k",
                          "expert_ff", "vocab", "split_block"}) {
    for (const auto* value : {"0", "-1", "1000000000", "9223372036854775807"}) {
      CHECK(refused(key, value));
    }
  }
  for (const auto* key : {"attention_params", "kv_width", "attention_width"}) {
    for (const auto* value : {"0", "-1", "9223372036854775807"}) {
      CHECK(names(complaint(latent_shape({{key, value}})), key));
    }
  }
  for (const auto* value : {"-1", "1000000000"}) {
    CHECK(refused("shared_ff", value));
    CHECK(refused("dense_ff", value));
  }
}

TEST_CASE("bits below a half, above 32 or not finite are refused") {
  for (const auto* value : {"0", "0.49", "-4.5", "32.1", "1e9", "nan", "inf"}) {
    for (const auto* key : {"expert_bits", "rest_bits", "output_bits"}) {
      CHECK(refused(key, value));
    }
    const std::string list = "[4, 4, " + std::string(value) + ", 4, 4]";
    CHECK(names(complaint(shape({{"expert_bits", ""}, {"expert_bits_by_layer", list}})),
                "expert_bits_by_layer[2]"));
  }
}

TEST_CASE("a value of another type is refused in a shape") {
  for (const auto* value : {"\"5\"", "true", "[5]", "{ a = 5 }", "5.5"}) {
    for (const auto* key : {"layers", "experts", "split_block"}) CHECK(refused(key, value));
  }
  CHECK(refused("rest_bits", "\"8\""));
  CHECK(names(complaint(shape({{"expert_bits", ""}, {"expert_bits_by_layer", "4.5"}})),
              "expert_bits_by_layer"));
}

TEST_CASE("more active experts than experts are refused") {
  CHECK(complaint(shape({{"top_k", "9"}})) == "here.toml: top_k is 9; expected 1 to 8");
  CHECK(parse(shape({{"top_k", "8"}})).top_k == 8);
}

TEST_CASE("more key heads than heads are refused") {
  CHECK(complaint(shape({{"kv_heads", "5"}})) == "here.toml: kv_heads is 5; expected 1 to 4");
}

TEST_CASE("a model of dense layers only is refused") {
  CHECK(complaint(shape({{"dense_layers", "5"}, {"dense_ff", "200"}})) ==
        "here.toml: dense_layers is 5; expected 0 to 4");
}

TEST_CASE("a list of bits of the wrong length is refused with the right one") {
  for (const auto* list : {"[]", "[4, 4, 4, 4]", "[4, 4, 4, 4, 4, 4]"}) {
    const std::string message =
        complaint(shape({{"expert_bits", ""}, {"expert_bits_by_layer", list}}));
    CHECK(names(message, "expert_bits_by_layer"));
    CHECK(message.find("expected 5, one for each layer with experts") != std::string::npos);
  }
  // Dense layers have no experts and no entry.
  CHECK(complaint(shape({{"expert_bits", ""},
                         {"dense_layers", "1"},
                         {"dense_ff", "200"},
                         {"expert_bits_by_layer", "[4, 4, 4, 4, 4]"}}))
            .find("expected 4") != std::string::npos);
}

TEST_CASE("keys that contradict each other are refused") {
  CHECK(complaint(shape({{"expert_bits_by_layer", "[4, 4, 4, 4, 4]"}})) ==
        "here.toml: expert_bits stands beside expert_bits_by_layer");
  CHECK(complaint(latent_shape({{"heads", "4"}})) ==
        "here.toml: heads stands beside attention_params");
  CHECK(complaint(shape({{"kv_width", "40"}})) ==
        "here.toml: kv_width stands without attention_params");
  CHECK(complaint(shape({{"dense_ff", "200"}})) ==
        "here.toml: dense_ff stands without dense_layers");
}

TEST_CASE("a block that does not divide an expert is refused") {
  CHECK(complaint(shape({{"split_block", "36"}})) ==
        "here.toml: split_block is 36; expected a divisor of expert_ff, 96");
  CHECK(refused("split_block", "97"));
}

TEST_CASE("experts whose bytes together would overflow are refused") {
  const std::string message = complaint(shape({{"layers", "4096"},
                                               {"d_model", "131072"},
                                               {"experts", "4096"},
                                               {"expert_ff", "1048576"},
                                               {"expert_bits", "32"}}));
  CHECK(names(message, "experts"));
}

TEST_CASE("the largest shape of each other part stays in range") {
  const ModelShape s = parse(shape({{"layers", "4096"},
                                    {"dense_layers", "4095"},
                                    {"dense_ff", "1048576"},
                                    {"shared_ff", "1048576"},
                                    {"d_model", "131072"},
                                    {"heads", "4096"},
                                    {"kv_heads", "4096"},
                                    {"head_dim", "4096"},
                                    {"vocab", "16777216"},
                                    {"rest_bits", "32"}}));
  const double attention = 4.0 * 131072 * 4096 * 4096;
  const double dense = 3.0 * 131072 * 1048576;
  CHECK(static_cast<double>(s.other.bytes) ==
        Approx(4 * (4095 * (attention + dense) + 131072.0 * 16777216)));
  CHECK(s.attention.bytes > 0);
  CHECK(static_cast<double>(s.shared_expert.bytes) == Approx(4 * dense));
}

TEST_CASE("text that is not TOML is one line with the shape's file and line number") {
  const std::string message = complaint("layers = 5\nd_model = = 3\n");
  CHECK(message.rfind("here.toml:2: ", 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("a shape is read from a file and named after it") {
  const TempFile file("mine.toml", shape());
  const ModelShape s = load_model_shape(file.path());
  CHECK(s.name == fs::path(file.path()).stem().string());
  CHECK(s.n_experts == 8);
}

TEST_CASE("an error in a shape's file names the path as given") {
  const TempFile file("bad.toml", shape({{"top_k", "9"}}));
  CHECK_THROWS_AS(load_model_shape(file.path()), ConfigError);
  try {
    load_model_shape(file.path());
  } catch (const ConfigError& error) {
    CHECK(error.what() == file.path() + ": top_k is 9; expected 1 to 8");
  }
}

TEST_CASE("a shape that is not built in is answered with those that are") {
  CHECK_THROWS_AS(load_model_shape("glm-4.5"), ConfigError);
  try {
    load_model_shape("glm-4.5");
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    CHECK(message.rfind("model shape \"glm-4.5\" is not built in; expected ", 0) == 0);
    for (const EmbeddedFile& file : embedded_shapes()) {
      CHECK(message.find(std::string(file.name)) != std::string::npos);
    }
  }
}

TEST_CASE("a shape's missing file is a FileError") {
  CHECK_THROWS_AS(load_model_shape("missing.toml"), FileError);
  CHECK_THROWS_AS(load_model_shape(fs::temp_directory_path().string() + "/"), FileError);
}

}  // namespace
}  // namespace tandem::test
