// Models whose metadata or tensors are not what they should be: a FileError that names the key or
// tensor with what it holds, never a model that runs with something else.
#include <fmt/format.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/model.h"
#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

// What loading says of a file; "no error" when it loads.
std::string load_error(const TinyModel& model) {
  const Bytes image = model.file().build();
  return error_of([&] { Model::load(GgufFile::from_memory(image, "tiny.gguf")); });
}

ModelConfig config_of(const TinyModel& model) {
  const Bytes image = model.file().build();
  return read_model_config(GgufFile::from_memory(image, "tiny.gguf"));
}

struct BadKey {
  std::string key;
  double value;
  std::string message;
};

// Adds the key as a 64-bit float, which every getter of numbers takes.
void check_numbers(const std::vector<BadKey>& cases) {
  for (const BadKey& bad : cases) {
    TinyModel model;
    model.extra.add(model.key(bad.key), bad.value);
    INFO(bad.key << " = " << bad.value);
    CHECK(load_error(model) == "tiny.gguf: llama." + bad.key + " " + bad.message);
  }
}

TEST_CASE("the smallest model loads") { CHECK(load_error({}) == "no error"); }

TEST_CASE("a number that no 32-bit float holds is an error that shows it") {
  const double infinity = std::numeric_limits<double>::infinity();
  check_numbers({
      {"rope.freq_base", 1e300, "is 1e+300; expected a finite 32-bit float"},
      {"rope.freq_base", 1e-300, "is 1e-300; expected a finite 32-bit float"},
      {"rope.freq_base", infinity, "is inf; expected a finite 32-bit float"},
      {"expert_weights_scale", -1e300, "is -1e+300; expected a finite 32-bit float"},
      {"attention.clamp_kqv", -infinity, "is -inf; expected a finite 32-bit float"},
      {"attention.layer_norm_rms_epsilon", 3.5e38, "is 3.5e+38; expected a finite 32-bit float"},
  });
  TinyModel model;
  model.extra.add(model.key("rope.freq_base"), std::numeric_limits<double>::quiet_NaN());
  CHECK(contains(load_error(model), "llama.rope.freq_base is nan; expected a finite"));
}

TEST_CASE("each head dimension is bounded under its own key") {
  for (const char* key : {"attention.key_length", "attention.value_length"}) {
    for (const uint32_t dim : {0U, 513U}) {
      TinyModel model;
      model.counts[key] = dim;
      CHECK(load_error(model) ==
            fmt::format("tiny.gguf: llama.{} is {}; expected 1 to 512", key, dim));
    }
    TinyModel narrow;
    narrow.counts["attention.head_count"] = 9;
    narrow.counts["attention.key_length"] = 2;
    narrow.counts["attention.value_length"] = 2;
    narrow.counts.erase(key);
    CHECK(load_error(narrow) ==
          fmt::format("tiny.gguf: llama.{} is missing, and embedding_length / "
                      "attention.head_count is 0; expected 1 to 512",
                      key));
  }
}

TEST_CASE("head counts may be one for each layer, all equal and in range") {
  const auto error = [](const std::vector<int32_t>& heads) {
    TinyModel model;
    model.counts.erase("attention.head_count");
    model.extra.add_array(model.key("attention.head_count"), heads);
    return load_error(model);
  };
  const std::string key = "tiny.gguf: llama.attention.head_count ";
  CHECK(error({2}) == "no error");
  CHECK(error({}) == key + "is an empty array");
  CHECK(error({-3}) == key + "is -3; expected 1 to 4096");
  CHECK(error({0}) == key + "is 0; expected 1 to 4096");
  CHECK(error({5000}) == key + "is 5000; expected 1 to 4096");
  CHECK(error({2, 2, -1}) == key + "is 2 in one layer and -1 in another, which no family here has");
}

TEST_CASE("the shared expert's width is in range, and 0 only where there is none") {
  TinyModel model;
  model.arch = "qwen2moe";
  const std::string key = "expert_shared_feed_forward_length";
  CHECK(config_of(model).shared_ff == 0);
  model.counts[key] = 0;
  CHECK(config_of(model).shared_ff == 0);
  model.counts[key] = (1U << 20) + 1;
  CHECK(load_error(model) == "tiny.gguf: qwen2moe." + key + " is 1048577; expected 1 to 1048576");
  model.shapes["blk.0.ffn_gate_shexp.weight"] = {8, 12};
  model.shapes["blk.0.ffn_up_shexp.weight"] = {8, 12};
  model.shapes["blk.0.ffn_down_shexp.weight"] = {12, 8};
  model.counts[key] = 0;
  CHECK(load_error(model) == "tiny.gguf: qwen2moe." + key +
                                 " is 0; expected 1 to 1048576 because there is "
                                 "blk.0.ffn_gate_shexp.weight");
  model.counts[key] = 16;
  CHECK(
      contains(load_error(model), "tensor blk.0.ffn_gate_shexp.weight is 8 x 12; expected 8 x 16"));
  model.counts[key] = 12;
  CHECK(load_error(model) == "no error");
  model.counts.erase(key);
  CHECK(load_error(model) == "no error");
  CHECK(config_of(model).shared_ff == 12);
  model.shapes["blk.0.ffn_gate_shexp.weight"] = {1, (1U << 20) + 1};
  CHECK(
      contains(load_error(model), "the number of rows of blk.0.ffn_gate_shexp.weight is 1048577"));
}

TEST_CASE("a width of routed experts that is not the tensor's is an error") {
  TinyModel model;
  for (const uint32_t width : {0U, 16U}) {  // 0: not said
    model.counts["expert_feed_forward_length"] = width;
    CHECK(config_of(model).expert_ff == 16);
  }
  model.counts["expert_feed_forward_length"] = 24;
  CHECK(load_error(model) ==
        "tiny.gguf: llama.expert_feed_forward_length is 24, but blk.0.ffn_gate_exps.weight has 16 "
        "rows");
}

TEST_CASE("a tensor of a type that no kernel reads is an error that lists those that are read") {
  constexpr uint32_t kF64 = 28;
  TinyModel model;
  model.shapes.erase("output_norm.weight");
  model.extra.add_tensor("output_norm.weight", kF64, {8}, Bytes(64));
  CHECK(load_error(model) ==
        "tiny.gguf: tensor output_norm.weight has type f64; supported: f32, f16, q4_0, q5_0, q8_0, "
        "q4_K, q5_K, q6_K, bf16");
}

TEST_CASE("each type that kernels read has the size that the file format gives it") {
  int n_types = 0;
  for (uint32_t id = 0; id < 1000; ++id) {
    const DTypeInfo* kernel = dtype_info(id);
    if (kernel == nullptr) continue;
    ++n_types;
    const GgmlTypeInfo* format = ggml_type_info(id);
    REQUIRE(format != nullptr);
    CHECK(std::string(kernel->name) == format->name);
    CHECK(kernel->block_elems == static_cast<int>(format->block_elems));
    CHECK(kernel->block_bytes == static_cast<int>(format->block_bytes));
  }
  CHECK(n_types == 9);
}

TEST_CASE("experts of one layer in tensors of different types are an error that names two") {
  TinyModel model;
  for (const char* which : {"gate", "up", "down"}) {
    const std::string name = std::string("blk.0.ffn_") + which;
    const std::vector<uint64_t> both = model.shapes.at(name + "_exps.weight");
    model.shapes.erase(name + "_exps.weight");
    model.shapes[name + ".0.weight"] = {both[0], both[1]};
    model.shapes[name + ".1.weight"] = {both[0], both[1]};
  }
  CHECK(load_error(model) == "no error");
  model.shapes.erase("blk.0.ffn_up.1.weight");
  CHECK(load_error(model) == "tiny.gguf: has no tensor blk.0.ffn_up.1.weight");
  constexpr uint32_t kF16 = 1;
  model.extra.add_tensor("blk.0.ffn_up.1.weight", kF16, {8, 16}, Bytes(8 * 16 * 2));
  CHECK(load_error(model) ==
        "tiny.gguf: tensors blk.0.ffn_up.0.weight (f32) and blk.0.ffn_up.1.weight (f16) have "
        "different types; expected one type for all experts of a layer");
}

TEST_CASE("the vocabulary is as long as the embedding, whatever vocab_size says") {
  TinyModel model;
  model.counts["vocab_size"] = 3;
  CHECK(config_of(model).n_vocab == 4);
}

TEST_CASE("a hostile text in a file makes a message of one short line") {
  const std::string hostile = "\n\x1b[31m\"" + std::string(60000, 'x');
  const std::string shown = "\"\\x0a\\x1b[31m\\\"xxx";
  TinyModel other;
  other.arch = hostile;
  TinyModel rope;
  rope.extra.add(rope.key("rope.scaling.type"), hostile);
  for (const TinyModel& model : {other, rope}) {
    const std::string error = load_error(model);
    CHECK(contains(error, "is " + shown));
    CHECK(error.size() < 400);
  }
  TinyModel named;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  named.extra.add_tensor_f32("\x1b[31m", {1}, {nan});
  const Bytes image = named.file().build();
  const Model model = Model::load(GgufFile::from_memory(image, "tiny.gguf"));
  CHECK(error_of([&] { model.check_finite(); }) ==
        "tiny.gguf: tensor \"\\x1b[31m\" holds a value that is not finite");
}

TEST_CASE("a RoPE scaling that is no positive number is an error, 0 means none") {
  const std::string expected = "; expected 0 or a positive number with a finite inverse";
  check_numbers({
      {"rope.scale_linear", -2, "is -2" + expected},
      {"rope.scale_linear", 1e-39, "is 1e-39" + expected},
      {"rope.scaling.factor", -4, "is -4" + expected},
      {"rope.scaling.factor", 1e-39, "is 1e-39" + expected},
  });
  for (const char* key : {"rope.scale_linear", "rope.scaling.factor"}) {
    for (const auto& [value, scale] : {std::pair{0.0, 1.0F}, std::pair{4.0, 0.25F}}) {
      TinyModel model;
      model.extra.add(model.key(key), value);
      CHECK(config_of(model).rope.freq_scale == scale);
    }
  }
}

TEST_CASE("a RoPE frequency divided by what is no positive number is an error") {
  for (const auto& [factor, shown] :
       {std::pair{0.0F, "0"}, std::pair{-1.0F, "-1"}, std::pair{1e-39F, "1e-39"}}) {
    TinyModel model;
    model.shapes["rope_freqs.weight"] = {2};
    model.values["rope_freqs.weight"] = {1.0F, factor};
    CHECK(load_error(model) == std::string("tiny.gguf: tensor rope_freqs.weight holds ") + shown +
                                   "; expected positive numbers with a finite inverse");
    model.values["rope_freqs.weight"] = {1.0F, 8.0F};
    CHECK(load_error(model) == "no error");
  }
}

}  // namespace
}  // namespace tandem::test
