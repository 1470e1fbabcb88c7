#include "runtime/pregate/safetensors.h"

#include <cstring>

#include "tests/support/catch.h"
#include "tests/support/file_error.h"

namespace tandem::test {
namespace {

// A file by the format's description, made without the writer under test.
std::vector<std::byte> file_of(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::vector<std::byte> file(8 + header.size() + data_bytes);
  std::memcpy(file.data(), &size, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  for (size_t i = 0; i < data_bytes; ++i) file[8 + header.size() + i] = std::byte(i);
  return file;
}

std::string fault(const std::string& header, size_t data_bytes) {
  return error_of([&] { parse_safetensors(file_of(header, data_bytes), "f"); });
}

}  // namespace

TEST_CASE("a safetensors file gives its metadata and tensors") {
  const auto file = file_of(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("y":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("z":{"dtype":"U8","shape":[0,5],"data_offsets":[16,16]}}   )",
      16);
  const SafeTensors content = parse_safetensors(file, "f");
  CHECK(content.metadata.at("a") == "b");
  REQUIRE(content.tensors.size() == 3);
  const SafeTensor& x = content.tensors.at("x");
  CHECK(x.dtype == "F16");
  CHECK(x.shape == std::vector<int64_t>{2, 3});
  REQUIRE(x.bytes.size() == 12);
  CHECK(x.bytes[0] == std::byte{4});
  CHECK(content.tensors.at("y").bytes.size() == 4);
  CHECK(content.tensors.at("z").bytes.empty());
}

TEST_CASE("what is written as safetensors is read again") {
  const std::vector<float> numbers{1, 2, 3, 4, 5, 6};
  SafeTensors content;
  content.metadata = {{"k", "\"quoted\"\n"}};
  content.tensors["m"] = {"F32", {2, 3}, std::as_bytes(std::span(numbers))};
  content.tensors["a"] = {"U8", {4}, std::as_bytes(std::span(numbers)).first(4)};
  const std::string file = safetensors_bytes(content);
  const SafeTensors back = parse_safetensors(std::as_bytes(std::span(file)), "f");
  CHECK(back.metadata == content.metadata);
  REQUIRE(back.tensors.size() == 2);
  const SafeTensor& m = back.tensors.at("m");
  CHECK(m.shape == std::vector<int64_t>{2, 3});
  CHECK(std::memcmp(m.bytes.data(), numbers.data(), m.bytes.size()) == 0);
}

TEST_CASE("a hostile safetensors file is refused with what is wrong") {
  CHECK_THAT(error_of([] { parse_safetensors(std::vector<std::byte>(7), "f"); }),
             contains("the size of the header"));
  std::vector<std::byte> long_header = file_of("{}", 0);
  const uint64_t many = uint64_t{1} << 60;
  std::memcpy(long_header.data(), &many, 8);
  CHECK_THAT(error_of([&] { parse_safetensors(long_header, "f"); }), contains("expected at most"));
  CHECK_THAT(fault("[]", 0), contains("expected a JSON object"));
  CHECK_THAT(fault("{", 0), contains("expected a JSON object"));
  CHECK_THAT(fault(std::string(100000, '['), 0), contains("nested too deep"));
  CHECK_THAT(fault(R"({"x":{"dtype":{"a":{"b":1}},"shape":[1],"data_offsets":[0,1]}})", 1),
             contains("nested too deep"));
  CHECK_THAT(fault(R"({"x":1})", 0), contains("expected dtype, shape and two data_offsets"));
  CHECK_THAT(fault(R"({"__metadata__":{"a":1}})", 0), contains("expected text"));
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& at) {
    std::string header = R"({"x":{"dtype":")";
    header.append(dtype).append(R"(","shape":)").append(shape);
    return header.append(R"(,"data_offsets":)").append(at).append("}}");
  };
  CHECK_THAT(fault(one("F31", "[1]", "[0,4]"), 4), contains("unknown dtype"));
  CHECK_THAT(fault(one("F32", "[2]", "[0,4]"), 8), contains("expected 8 bytes by its shape"));
  CHECK_THAT(fault(one("F32", "[1]", "[0,4]"), 3), contains("its shape needs more"));
  CHECK_THAT(fault(one("F32", "[1]", "[4,8]"), 8), contains("expected one to begin at offset 0"));
  CHECK_THAT(fault(one("F32", "[1]", "[8,12]"), 8), contains("truncated"));
  CHECK_THAT(fault(one("F32", "[1]", "[4,0]"), 8), contains("got offsets 4 to 0"));
  CHECK_THAT(fault(one("F32", "[1]", "[0,4]"), 5), contains("expected 4 bytes behind the header"));
  CHECK_THAT(fault(one("F32", "[-1]", "[0,4]"), 4), contains("expected a whole number"));
  CHECK_THAT(fault(one("F32", "[1e3]", "[0,4]"), 4), contains("expected a whole number"));
  CHECK_THAT(fault(one("F64", "[281474976710656,281474976710656,281474976710656]", "[0,4]"), 4),
             contains("its shape needs more"));
  CHECK_THAT(fault(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                   R"("y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                   3),
             contains("expected one to begin at offset 2"));
  CHECK_THAT(fault(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                   R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                   1),
             contains("stands there twice"));
}

}  // namespace tandem::test
