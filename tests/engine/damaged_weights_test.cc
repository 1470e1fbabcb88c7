// Weights with scales that are not finite, and models that lack or misshape a tensor.
#include <cstring>
#include <fstream>
#include <iterator>

#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::vector<std::byte> demo_image() {
  std::ifstream in(kDemoModel, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::vector<std::byte> image(bytes.size());
  std::memcpy(image.data(), bytes.data(), bytes.size());
  return image;
}

// Sets the f16 scale of the first block of every expert in the tensor to NaN.
void damage(std::vector<std::byte>* image, const std::string& name, size_t experts) {
  const GgufFile file = GgufFile::from_memory(*image, "damaged.gguf");
  const GgufTensor* tensor = file.find_tensor(name);
  REQUIRE(tensor != nullptr);
  const auto at = static_cast<size_t>(tensor->data - image->data());
  for (size_t e = 0; e < experts; ++e) {
    const uint16_t nan = 0x7e00;
    std::memcpy(image->data() + at + e * tensor->size_bytes / experts, &nan, sizeof nan);
  }
}

std::string error_of(const std::vector<std::byte>& image, const EngineSettings& settings) {
  const Model model = Model::load(GgufFile::from_memory(image, "damaged.gguf"));
  Engine engine(model, test_machine(), settings);
  const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535, 438, 307, 258, 4093, 3384, 794, 258};
  try {
    engine.eval(prompt);
  } catch (const FileError& error) {
    return error.what();
  }
  return "no error";
}

// The first occurrence of `from` in the file becomes `to`, of the same length.
std::string load_error(const std::string& from, const std::string& to) {
  std::vector<std::byte> image = demo_image();
  const std::string_view bytes(reinterpret_cast<const char*>(image.data()), image.size());
  const size_t at = bytes.find(from);
  REQUIRE(at != std::string_view::npos);
  REQUIRE(from.size() == to.size());
  std::memcpy(image.data() + at, to.data(), to.size());
  try {
    Model::load(GgufFile::from_memory(image, "changed.gguf"));
  } catch (const FileError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a NaN scale in an expert that is used is an error that names the tensor") {
  std::vector<std::byte> image = demo_image();
  damage(&image, "blk.2.ffn_up_exps.weight", 32);
  for (const EngineSettings& settings : {cpu_settings(), sim_settings(20), cuda_settings(20)}) {
    CHECK_THAT(error_of(image, settings),
               contains("tensor \"blk.2.ffn_up_exps.weight\" holds a scale that is not finite"));
  }
}

TEST_CASE("a NaN scale in an expert of the last layer names the tensor") {
  std::vector<std::byte> image = demo_image();
  damage(&image, "blk.5.ffn_down_exps.weight", 32);
  CHECK_THAT(error_of(image, cpu_settings()), contains("tensor \"blk.5.ffn_down_exps.weight\""));
}

TEST_CASE("a NaN scale in the router's layer names the tensor") {
  std::vector<std::byte> image = demo_image();
  damage(&image, "blk.0.attn_q.weight", 1);
  CHECK_THAT(error_of(image, cpu_settings()), contains("blk.0.attn_q.weight"));
}

TEST_CASE("a NaN scale in the head names the tensor") {
  std::vector<std::byte> image = demo_image();
  damage(&image, "token_embd.weight", 1);
  CHECK_THAT(error_of(image, cpu_settings()), contains("token_embd.weight"));
}

TEST_CASE("checking the tensors finds a damaged expert before it is used") {
  std::vector<std::byte> image = demo_image();
  damage(&image, "blk.4.ffn_down_exps.weight", 32);
  const Model model = Model::load(GgufFile::from_memory(image, "damaged.gguf"));
  CHECK_THROWS_WITH(model.check_finite(), contains("blk.4.ffn_down_exps.weight"));
}

TEST_CASE("a missing tensor is an error that names it") {
  CHECK_THAT(load_error("blk.1.attn_k.weight", "blk.1.attn_x.weight"),
             contains("changed.gguf: has no tensor blk.1.attn_k.weight"));
  CHECK_THAT(load_error("blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_expo.weight"),
             contains("has no tensor blk.0.ffn_gate_exps.weight"));
}

TEST_CASE("an unknown architecture is an error that lists the known ones") {
  CHECK_THAT(load_error("qwen3moe", "qwen9moe"),
             contains("\"qwen9moe\"") && contains("olmoe") && contains("qwen2moe"));
}

TEST_CASE("metadata that contradicts the tensors is an error") {
  // The value of a u32 key stands four bytes behind the key: type, then value.
  std::vector<std::byte> image = demo_image();
  const std::string key = "qwen3moe.attention.head_count_kv";
  const std::string_view bytes(reinterpret_cast<const char*>(image.data()), image.size());
  const size_t at = bytes.find(key);
  REQUIRE(at != std::string_view::npos);
  const uint32_t heads = 2;
  std::memcpy(image.data() + at + key.size() + 4, &heads, sizeof heads);
  CHECK_THROWS_WITH(Model::load(GgufFile::from_memory(image, "changed.gguf")),
                    contains("blk.0.attn_k.weight is 256 x 64; expected 256 x 128 x 1"));
}

}  // namespace tandem::test
