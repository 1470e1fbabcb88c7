// The GGUF reader on files that are what they should be.
#include "runtime/model/gguf_file.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::vector<std::vector<std::string>> read_csv(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    rows.emplace_back();
    for (std::string field; std::getline(fields, field, ',');) rows.back().push_back(field);
  }
  return rows;
}

template <typename T>
std::vector<T> values_of(const GgufTensor& tensor) {
  std::vector<T> values(tensor.size_bytes / sizeof(T));
  std::memcpy(values.data(), tensor.data, values.size() * sizeof(T));
  return values;
}

TEST_CASE("the table of ggml types agrees with the gguf package") {
  const auto rows = read_csv(kFixtures / "ggml_types.csv");
  REQUIRE(rows.size() == 34);
  uint32_t n_known = 0;
  for (uint32_t id = 0; id < 1000; ++id) n_known += ggml_type_info(id) != nullptr ? 1 : 0;
  CHECK(n_known == rows.size());
  for (const auto& row : rows) {
    INFO(row[1]);
    const GgmlTypeInfo* type = ggml_type_info(static_cast<uint32_t>(std::stoul(row[0])));
    REQUIRE(type != nullptr);
    CHECK(std::to_string(type->id) == row[0]);
    std::string name = type->name;
    std::transform(name.begin(), name.end(), name.begin(), ::toupper);
    CHECK(name == row[1]);
    CHECK(std::to_string(type->block_elems) == row[2]);
    CHECK(std::to_string(type->block_bytes) == row[3]);
  }
  CHECK(ggml_type_info(std::numeric_limits<uint32_t>::max()) == nullptr);
}

TEST_CASE("the demo model's tensors are where the gguf package finds them") {
  const auto rows = read_csv(kFixtures / "hearthside_tensors.csv");
  const Bytes bytes = read_bytes(kDemoModel);
  const GgufFile file = GgufFile::open(kDemoModel);
  CHECK(file.file_bytes() == bytes.size());
  REQUIRE(rows.size() == 74);
  REQUIRE(file.tensors().size() == rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i];
    INFO(row[0]);
    const GgufTensor& tensor = file.tensors()[i];
    CHECK(tensor.name == row[0]);
    CHECK(file.find_tensor(row[0]) == &tensor);
    CHECK(std::to_string(tensor.type_id) == row[1]);
    CHECK(std::to_string(tensor.n_dims) == row[2]);
    for (size_t d = 0; d < 4; ++d) CHECK(std::to_string(tensor.ne[d]) == row[3 + d]);
    CHECK(std::to_string(tensor.size_bytes) == row[7]);
    const size_t offset = std::stoul(row[8]);
    REQUIRE(offset + tensor.size_bytes <= bytes.size());
    CHECK(std::memcmp(tensor.data, bytes.data() + offset, tensor.size_bytes) == 0);
  }
  CHECK(file.find_tensor("blk.6.attn_q.weight") == nullptr);
}

TEST_CASE("the demo model's metadata are what the gguf package reads") {
  const GgufFile file = GgufFile::open(kDemoModel);
  CHECK(file.name() == kDemoModel.string());
  CHECK(file.version() == 3);
  CHECK(file.n_parts() == 1);
  CHECK(file.alignment() == 32);
  CHECK(file.file_bytes() == 12532544);
  REQUIRE(file.metadata().size() == 30);
  CHECK(file.metadata().front().first == "general.architecture");
  CHECK(file.metadata().back().first == "tokenizer.ggml.add_bos_token");
  CHECK(file.need_string("general.architecture") == "qwen3moe");
  CHECK(file.need_uint("qwen3moe.block_count") == 6);
  CHECK(file.need_uint("qwen3moe.expert_feed_forward_length") == 64);
  CHECK(file.get_float("qwen3moe.rope.freq_base") == 10000.0);
  CHECK(file.get_float("qwen3moe.attention.layer_norm_rms_epsilon") == static_cast<double>(1e-6F));
  CHECK(file.get_bool("tokenizer.ggml.add_bos_token") == true);
  const auto* tokens = file.get_string_array("tokenizer.ggml.tokens");
  REQUIRE(tokens != nullptr);
  REQUIRE(tokens->size() == 4096);
  CHECK(tokens->front() == "!");
  CHECK(tokens->back() == "<|im_end|>");
  const auto* merges = file.get_string_array("tokenizer.ggml.merges");
  REQUIRE(merges != nullptr);
  REQUIRE(merges->size() == 3837);
  CHECK((*merges)[1] == "h e");
  CHECK(merges->back() == "\u0120st iff");
  const auto types = file.get_int_array("tokenizer.ggml.token_type");
  REQUIRE(types.has_value());
  REQUIRE(types->size() == 4096);
  CHECK(types->front() == 1);
  CHECK(types->back() == 3);
}

TEST_CASE("every metadata type of another writer is read back") {
  const GgufFile file = GgufFile::open(kFixtures / "python_writer.gguf");
  CHECK(file.alignment() == 64);
  CHECK(file.metadata().size() == 20);
  CHECK(file.need_uint("t.u8") == 200);
  CHECK(std::get<int64_t>(*file.find("t.i8")) == -100);
  CHECK(file.need_uint("t.u16") == 60000);
  CHECK(std::get<int64_t>(*file.find("t.i16")) == -30000);
  CHECK(file.need_uint("t.u32") == 4000000000);
  CHECK(std::get<int64_t>(*file.find("t.i32")) == -2000000000);
  CHECK(file.need_uint("t.u64") == std::numeric_limits<uint64_t>::max());
  CHECK(std::get<int64_t>(*file.find("t.i64")) == std::numeric_limits<int64_t>::min());
  CHECK(file.get_float("t.f32") == static_cast<double>(0.1F));
  CHECK(file.get_float("t.f64") == 0.1);
  CHECK(file.get_bool("t.true") == true);
  CHECK(file.get_bool("t.false") == false);
  CHECK(file.need_string("t.string") == "na\u00efve \u2603");
  const auto* strings = file.get_string_array("t.strings");
  REQUIRE(strings != nullptr);
  CHECK(*strings == std::vector<std::string_view>{"", "one", "two words"});
  CHECK(file.get_int_array("t.ints") == std::vector<int64_t>{1, -2, 3});
  CHECK(file.get_float_array("t.floats") == std::vector<double>{0.5, -1.25});
  CHECK(file.get_int_array("t.bools") == std::vector<int64_t>{1, 0, 1});
  CHECK(file.get_int_array("t.bytes") == std::vector<int64_t>{0, 127, 255});
}

TEST_CASE("tensors of another writer are read back") {
  const GgufFile file = GgufFile::open(kFixtures / "python_writer.gguf");
  REQUIRE(file.tensors().size() == 5);
  const GgufTensor* f32 = file.find_tensor("f32");
  REQUIRE(f32 != nullptr);
  CHECK(f32->n_dims == 2);
  CHECK(f32->ne[0] == 3);
  CHECK(f32->ne[1] == 2);
  CHECK(values_of<float>(*f32) == std::vector<float>{0, 1, 2, 3, 4, 5});
  const GgufTensor* f16 = file.find_tensor("f16");
  REQUIRE(f16 != nullptr);
  CHECK(values_of<uint16_t>(*f16) == std::vector<uint16_t>{0x0000, 0x3c00, 0x4000, 0x4200, 0x4400});
  const GgufTensor* i32 = file.find_tensor("i32");
  REQUIRE(i32 != nullptr);
  CHECK(std::vector<uint64_t>(i32->ne, i32->ne + 4) == std::vector<uint64_t>{2, 2, 3, 2});
  CHECK(values_of<int32_t>(*i32).back() == 23);
  const GgufTensor* q8_0 = file.find_tensor("q8_0");
  REQUIRE(q8_0 != nullptr);
  CHECK(q8_0->ne[0] == 64);
  CHECK(q8_0->size_bytes == 3 * 2 * 34);
  CHECK(values_of<uint32_t>(*q8_0).front() == 0x0f002513);
  const GgufTensor* q4_0 = file.find_tensor("q4_0");
  REQUIRE(q4_0 != nullptr);
  CHECK(q4_0->size_bytes == 3 * 2 * 18);
  CHECK(values_of<uint32_t>(*q4_0).back() == 0xcd8fc79e);
}

TEST_CASE("versions 2 and 3 are read") {
  for (const uint32_t version : {2U, 3U}) {
    GgufBuilder builder;
    builder.set_version(version).add("k", "v").add_tensor_f32("t", {2}, {1, 2});
    const Bytes image = builder.build();
    const GgufFile file = GgufFile::from_memory(image, "memory");
    CHECK(file.version() == version);
    CHECK(file.need_string("k") == "v");
    CHECK(values_of<float>(file.tensors()[0]) == std::vector<float>{1, 2});
  }
}

TEST_CASE("any alignment that is a multiple of 8 is honoured") {
  for (const uint32_t alignment : {8U, 24U, 32U, 64U, 4096U, 1U << 20}) {
    GgufBuilder builder;
    builder.set_alignment(alignment)
        .add_tensor_f32("a", {1}, {1})
        .add_tensor_f32("b", {3}, {2, 3, 4});
    const Bytes image = builder.build();
    const GgufFile file = GgufFile::from_memory(image, "memory");
    CHECK(file.alignment() == alignment);
    CHECK((file.tensors()[0].data - image.data()) % alignment == 0);
    CHECK(file.tensors()[1].data - file.tensors()[0].data == alignment);
    CHECK(values_of<float>(file.tensors()[0]) == std::vector<float>{1});
    CHECK(values_of<float>(file.tensors()[1]) == std::vector<float>{2, 3, 4});
  }
}

TEST_CASE("a file without tensors or metadata is legal") {
  const Bytes image = GgufBuilder().build();
  CHECK(image.size() == 24);
  const GgufFile file = GgufFile::from_memory(image, "memory");
  CHECK(file.tensors().empty());
  CHECK(file.metadata().empty());
}

TEST_CASE("padding after the last tensor may be missing or present") {
  GgufBuilder builder;
  builder.add_tensor_f32("t", {1}, {1});
  Bytes image = builder.build();
  CHECK(parse_error(image) == "no error");
  image.resize(image.size() + 28);
  CHECK(parse_error(image) == "no error");
}

TEST_CASE("tensor types that no kernel reads are still sized") {
  GgufBuilder builder;
  builder.add_tensor("q2", 10, {512, 3}, Bytes(2 * 3 * 84));
  builder.add_tensor("mx", 39, {32, 5}, Bytes(5 * 17));
  const Bytes image = builder.build();
  const GgufFile file = GgufFile::from_memory(image, "memory");
  CHECK(file.find_tensor("q2")->size_bytes == 504);
  CHECK(file.find_tensor("mx")->size_bytes == 85);
}

TEST_CASE("tensors may be stored in any order and with gaps") {
  GgufBuilder builder;
  builder.add_tensor_f32("second", {8}, {0, 0, 0, 0, 0, 0, 0, 0}).claim_offset(64);
  builder.add_tensor_f32("first", {2}, {0, 0}).claim_offset(0);
  Bytes image = builder.build();
  image.resize(image.size() + 96);
  const GgufFile file = GgufFile::from_memory(image, "memory");
  CHECK(file.tensors()[0].name == "second");
  CHECK(file.tensors()[0].data - file.tensors()[1].data == 64);
}

TEST_CASE("an absent key is nothing, and an error where it is needed") {
  const Bytes image = GgufBuilder().build();
  const GgufFile file = GgufFile::from_memory(image, "memory");
  CHECK(file.find("k") == nullptr);
  CHECK_FALSE(file.get_uint("k").has_value());
  CHECK_FALSE(file.get_float("k").has_value());
  CHECK_FALSE(file.get_bool("k").has_value());
  CHECK_FALSE(file.get_string("k").has_value());
  CHECK(file.get_string_array("k") == nullptr);
  CHECK_FALSE(file.get_float_array("k").has_value());
  CHECK_FALSE(file.get_int_array("k").has_value());
  const std::string expected = "got nothing: the key is missing";
  CHECK(contains(error_of([&] { file.need_uint("k"); }), expected));
  CHECK(contains(error_of([&] { file.need_string("k"); }), expected));
}

TEST_CASE("a key of another type or out of range is an error that names it") {
  GgufBuilder builder;
  builder.add("text", "v").add_i32("minus", -1).add_f32("real", 1.5F).add_bool("flag", true);
  builder.add_array<uint64_t>("big", {1, uint64_t{1} << 63}).add_strings("texts", {"a"});
  builder.add_array<bool>("flags", {true});
  const Bytes image = builder.build();
  const GgufFile file = GgufFile::from_memory(image, "model.gguf");
  CHECK(error_of([&] { file.get_uint("minus"); }) ==
        "model.gguf: key \"minus\": expected an integer of at least 0, got -1");
  CHECK(error_of([&] { file.get_uint("real"); }) ==
        "model.gguf: key \"real\": expected an integer, got a float");
  CHECK(contains(error_of([&] { file.get_uint("flag"); }), "got a bool"));
  CHECK(contains(error_of([&] { file.get_float("text"); }), "got a string"));
  CHECK(contains(error_of([&] { file.get_float("flag"); }), "got a bool"));
  CHECK(contains(error_of([&] { file.get_bool("minus"); }), "got a signed integer"));
  CHECK(contains(error_of([&] { file.get_string("big"); }), "got an array of uint64"));
  CHECK(contains(error_of([&] { file.get_string_array("text"); }), "got a string"));
  CHECK(contains(error_of([&] { file.get_string_array("big"); }), "got an array of uint64"));
  CHECK(contains(error_of([&] { file.get_int_array("texts"); }), "got an array of string"));
  CHECK(contains(error_of([&] { file.get_int_array("big"); }), "got 9223372036854775808"));
  CHECK(contains(error_of([&] { file.get_float_array("texts"); }), "got an array of string"));
  CHECK(contains(error_of([&] { file.get_float_array("flags"); }), "got an array of bool"));
  CHECK(file.get_float("minus") == -1.0);
  CHECK(file.get_float_array("big") == std::vector<double>{1.0, 9223372036854775808.0});
}

TEST_CASE("views survive moving the file, and advice leaves the data as they are") {
  const Bytes bytes = read_bytes(kDemoModel);
  GgufFile first = GgufFile::open(kDemoModel);
  const std::string_view architecture = first.need_string("general.architecture");
  const GgufTensor* tensor = first.find_tensor("token_embd.weight");
  const GgufTensor* small = first.find_tensor("output_norm.weight");
  GgufFile second = std::move(first);
  CHECK(architecture == "qwen3moe");
  REQUIRE(second.find_tensor("token_embd.weight") == tensor);
  for (const GgufTensor* each : {tensor, small}) {
    second.advise_dont_need(each->bytes());
    const size_t offset = each == tensor ? 133952 : 1248064;
    CHECK(std::memcmp(each->data, bytes.data() + offset, each->size_bytes) == 0);
  }
  const GgufFile in_memory = GgufFile::from_memory(bytes, "memory");
  in_memory.advise_dont_need(in_memory.tensors()[0].bytes());
  CHECK(std::memcmp(in_memory.tensors()[0].data, tensor->data, tensor->size_bytes) == 0);
}

}  // namespace
}  // namespace tandem::test
